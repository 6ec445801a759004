"""A real Apache Kafka: its published jars, and one KRaft node started from them."""
