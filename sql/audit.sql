-- name: write
-- One row for each answer that shows an organisation's data to an actor who is not bound to it.
INSERT INTO analytics.audit_log (org_id, decision, actor_subject, actor_roles, actor_orgs, method, path, request_id)
VALUES (%(org_id)s, %(decision)s, %(actor_subject)s, %(actor_roles)s, %(actor_orgs)s, %(method)s, %(path)s,
        %(request_id)s);
