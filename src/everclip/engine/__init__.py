"""Training, evaluation, answers, and what a stream's images become for both."""
