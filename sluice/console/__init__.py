"""What a person at a terminal sees: views that read Kafka and Redis."""
