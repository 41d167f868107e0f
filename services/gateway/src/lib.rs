//! The one door to the system: REST, gRPC and gRPC-Web with JWT, rate limits, composition and a BFF.
