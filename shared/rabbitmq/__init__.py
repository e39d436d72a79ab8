"""The border to RabbitMQ: sessions that come back by themselves, the topology, frames and properties."""
