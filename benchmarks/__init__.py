"""What the pipeline costs, against its floor and against its peers; one module a table."""
