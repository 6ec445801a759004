"""The engine driven without Kafka, many seeded runs at once: error rates, coverage and regret, measured."""
