"""The local servers: real PostgreSQL, RabbitMQ, Redis (Valkey) and S3 (SeaweedFS) on loopback.

`python -m deploy.local up` and `down` run them with the fleet in the background, `run` in the
foreground. Tests use the same launcher through the fixtures of tests/conftest.py.

Each server runs as an ordinary user below a guard (guard.py) that ends it when the launcher ends,
however that happens. Ports are free ones, passwords random, data folders private; nothing standard is
touched, so several checkouts run side by side.
"""
