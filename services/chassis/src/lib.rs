//! What every process of sagamesh needs: configuration, telemetry, the gRPC server, the channel to a peer, errors.
