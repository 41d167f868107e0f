//! The contracts of sagamesh: the messages, clients and servers of every protobuf package under `proto/`, and
//! the descriptor set that reflection serves. Nothing else lives here.
#![allow(
    missing_docs,
    unreachable_pub,
    rustdoc::all,
    clippy::all,
    reason = "generated from the .proto files, which carry the documentation"
)]

/// Durable sagas: definitions, clients, participants and operators.
pub mod saga {
    pub mod v1 {
        tonic::include_proto!("saga.v1");
    }
}

/// The feed of a service's log.
pub mod ledger {
    pub mod v1 {
        tonic::include_proto!("ledger.v1");
    }
}

/// The registry of the mesh on one machine, and what an operator asks of its control plane.
pub mod mesh {
    pub mod v1 {
        tonic::include_proto!("mesh.v1");
    }
}

/// The shop's services.
pub mod shop {
    pub mod v1 {
        tonic::include_proto!("shop.v1");
    }
    pub mod orders {
        pub mod v1 {
            tonic::include_proto!("shop.orders.v1");
        }
    }
    pub mod inventory {
        pub mod v1 {
            tonic::include_proto!("shop.inventory.v1");
        }
    }
    pub mod payments {
        pub mod v1 {
            tonic::include_proto!("shop.payments.v1");
        }
    }
    pub mod notifications {
        pub mod v1 {
            tonic::include_proto!("shop.notifications.v1");
        }
    }
}

/// Encoded `FileDescriptorSet` of every package: what reflection serves.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
