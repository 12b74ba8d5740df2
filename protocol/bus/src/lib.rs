//! NATS: connection, typed publish and consume, assets, health, and a local server.
