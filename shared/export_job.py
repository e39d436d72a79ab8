"""The life of an export job: the gateway creates it, the export worker delivers it.

    insert --> pending --claim--> running --file is whole--> succeeded --retention--> expired
                  ^                 |  |
                  |   given back, or |  '--attempts used up--> failed
                  '--is retried------'

A running job whose lease has ended is claimed again from where it stands. The table's CHECKs forbid every
row that this picture does not have (sql/migrations/0005_export_jobs.sql); a test compares the names below.
"""

EXPORT_STATUSES = ("pending", "running", "succeeded", "failed", "expired")
