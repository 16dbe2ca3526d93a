"""One method over one stream: configuration in, run directory out."""
