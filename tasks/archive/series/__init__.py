"""What trials came to: results, time series and tables, one Arrow file or blob each."""
