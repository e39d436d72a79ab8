-- name: begin
-- Begins a transaction, as the standard has it wherever the server's default is another.
BEGIN ISOLATION LEVEL READ COMMITTED;

-- name: repeatable_read
-- Lets the transaction that has just begun see one state of the database.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;

-- name: read_only
-- Lets the transaction that has just begun write nothing.
SET TRANSACTION READ ONLY;

-- name: statement_timeout
-- Ends a statement of this transaction that takes longer.
SET LOCAL statement_timeout = %(statement_timeout_ms)s;

-- name: lock_timeout
-- Ends a statement of this transaction that waits longer for a lock.
SET LOCAL lock_timeout = %(lock_timeout_ms)s;

-- name: idle_timeout
-- Ends this transaction where its client falls silent within it.
SET LOCAL idle_in_transaction_session_timeout = 60000;

-- name: timezone
-- Reads and writes times in UTC.
SET LOCAL timezone = 'UTC';

-- name: jit
-- Plans are made for the values at hand anyway; compiling them costs more than it saves.
SET LOCAL jit = off;

-- name: commit
-- Ends a transaction for good.
COMMIT;

-- name: roll_back
-- Ends a transaction as if it had not been.
ROLLBACK;

-- name: session
-- Which session of the server this is. Behind a pooler it is not the one that the client was told of at its start.
SELECT pg_backend_pid();
