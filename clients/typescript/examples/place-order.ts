// Places an order, watches its saga to the end, and handles what goes wrong, with its details.
//
//   SAGAMESH_GATEWAY   host:port of the gateway, where orders are placed with SAGAMESH_TOKEN
//   SAGAMESH_OPERATOR  host:port of the operator's sidecar, through which the coordinator shows sagas; without a mesh the coordinator itself

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { type Client, Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../gen/google/rpc/error_details_pb.js";
import { Direction, SagaState } from "../gen/saga/v1/event_pb.js";
import { SagaService } from "../gen/saga/v1/saga_pb.js";
import { OrderService, OrderStatus, type PlaceOrderRequestSchema } from "../gen/shop/orders/v1/orders_pb.js";

const COORDINATOR = "coordinator.sagamesh.svc.cluster.local:50051";
const CALL_MILLIS = 10_000;
const SAGA_MILLIS = 60_000;

/** An error in words: its code, and the details that every error of sagamesh carries. */
function explain(error: unknown): string {
  const status = ConnectError.from(error);
  const name = Code[status.code].replace(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase();
  const parts = [name];
  for (const info of status.findDetails(ErrorInfoSchema)) {
    parts.push(`${info.reason} of ${info.domain}`);
  }
  for (const request of status.findDetails(BadRequestSchema)) {
    parts.push(...request.fieldViolations.map((wrong) => `${wrong.field}: ${wrong.description}`));
  }
  for (const retry of status.findDetails(RetryInfoSchema)) {
    parts.push(`again after ${retry.retryDelay?.seconds ?? 0n} s`);
  }
  return parts.join("; ");
}

/** An order under a new request id: who repeats the request gets the same order. */
function order(sku: string, quantity: number, paymentMethod = "pm_ok"): MessageInitShape<typeof PlaceOrderRequestSchema> {
  return { requestId: randomUUID(), lines: [{ sku, quantity }], paymentMethod, currency: "EUR" };
}

/** Prints a saga's history until it ends, and returns how. A stream that breaks is opened again after the last event seen. */
async function watch(sagas: Client<typeof SagaService>, sagaId: string): Promise<string> {
  const signal = AbortSignal.timeout(SAGA_MILLIS);
  const headers = { "l5d-dst-override": COORDINATOR };
  for (let afterVersion = 0n; ; await sleep(100)) {
    try {
      for await (const { event } of sagas.watchSaga({ sagaId, afterVersion }, { signal, headers })) {
        afterVersion = event?.version ?? afterVersion;
        for (const { kind } of event?.transitions ?? []) {
          const step = kind.value !== undefined && "step" in kind.value ? kind.value.step : "";
          const direction = kind.value !== undefined && "direction" in kind.value ? kind.value.direction : undefined;
          const undoing = direction === Direction.COMPENSATION ? " (undoing)" : "";
          console.log(`  ${kind.case} ${step}${undoing}`.trimEnd());
          if (kind.case === "ended") {
            return SagaState[kind.value.state] ?? String(kind.value.state);
          }
        }
      }
    } catch (error) {
      // The order is on record before its saga is started, so it may not be there yet.
      const { code } = ConnectError.from(error);
      if (code !== Code.NotFound && code !== Code.Unavailable) {
        throw error;
      }
    }
  }
}

function connect(address: string) {
  return createGrpcTransport({ baseUrl: `http://${address}`, defaultTimeoutMs: SAGA_MILLIS });
}

async function main(): Promise<void> {
  const { SAGAMESH_TOKEN: token, SAGAMESH_OPERATOR: operator, SAGAMESH_GATEWAY: gateway = "127.0.0.1:8080" } = process.env;
  if (!token || !operator) {
    throw new Error("SAGAMESH_TOKEN and SAGAMESH_OPERATOR must be set; README.md says to what");
  }
  const orders = createClient(OrderService, connect(gateway));
  const sagas = createClient(SagaService, connect(operator));
  const options = { timeoutMs: CALL_MILLIS, headers: { authorization: `Bearer ${token}` } };

  for (const request of [order("keyboard", 1), order("keyboard", 1, "pm_declined")]) {
    const { order: placed } = await orders.placeOrder(request, options);
    if (!placed) throw new Error("an answer without an order");
    console.log(`order ${placed.orderId}`);
    console.log(`saga ${await watch(sagas, placed.sagaId)}`);
    const { order: now } = await orders.getOrder({ orderId: placed.orderId }, options);
    if (!now) throw new Error("an answer without an order");
    console.log(`order ${OrderStatus[now.status]} ${now.rejectionReason}`.trimEnd());
  }

  const refused = {
    "no such quantity": order("keyboard", 0),
    "more than there is": order("keyboard", 9999),
  };
  for (const [what, request] of Object.entries(refused)) {
    await orders.placeOrder(request, options).catch((error) => console.log(`${what}: ${explain(error)}`));
  }
  await orders
    .placeOrder(order("keyboard", 1), { timeoutMs: CALL_MILLIS })
    .catch((error) => console.log(`no token: ${explain(error)}`));
}

await main();
// The connections are kept for a while; there is nothing more to do.
process.exit(0);
