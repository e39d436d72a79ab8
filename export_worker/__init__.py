"""Takes export jobs from the database and delivers each as one CSV object in S3."""
