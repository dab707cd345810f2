"""What is shown of a bucket, for the command line and for HTTP: documents, comparisons, escaping."""
