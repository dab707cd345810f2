"""Views of a bucket and a journal for the command line: documents, comparisons, escaping."""
