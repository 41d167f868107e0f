"""Places an order, watches its saga to the end, and handles what goes wrong, with its details.

    SAGAMESH_GATEWAY   host:port of the gateway, where orders are placed with SAGAMESH_TOKEN
    SAGAMESH_OPERATOR  host:port of the operator's sidecar, through which the coordinator shows sagas; without a mesh the coordinator itself
"""

import os
import pathlib
import time
import uuid

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from saga.v1 import event_pb2, saga_pb2, saga_pb2_grpc
from shop.orders.v1 import orders_pb2, orders_pb2_grpc

# Timeouts and retries as the mesh's policies have them, for who has no sidecar.
SERVICE_CONFIG = pathlib.Path(__file__).parents[2] / "service-config.json"
COORDINATOR = "coordinator.sagamesh.svc.cluster.local:50051"
CALL_SECONDS = 10
SAGA_SECONDS = 60


def explain(error: grpc.RpcError) -> str:
    """An error in words: its code, and the details that every error of sagamesh carries."""
    parts = [error.code().name]
    status = rpc_status.from_call(error)
    for detail in status.details if status else []:
        info = error_details_pb2.ErrorInfo()
        request = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            parts.append(f"{info.reason} of {info.domain}")
        elif detail.Unpack(request):
            parts += [f"{wrong.field}: {wrong.description}" for wrong in request.field_violations]
        elif detail.Unpack(retry):
            parts.append(f"again after {retry.retry_delay.ToTimedelta()}")
    return "; ".join(parts)


def order(sku: str, quantity: int, payment_method: str = "pm_ok") -> orders_pb2.PlaceOrderRequest:
    """An order under a new request id: who repeats the request gets the same order."""
    line = orders_pb2.OrderLine(sku=sku, quantity=quantity)
    return orders_pb2.PlaceOrderRequest(
        request_id=str(uuid.uuid4()), lines=[line], payment_method=payment_method, currency="EUR"
    )


def watch(sagas: saga_pb2_grpc.SagaServiceStub, saga_id: str) -> str:
    """Prints a saga's history until it ends, and returns how. A stream that breaks is opened again after the last event seen."""
    seen = 0
    deadline = time.monotonic() + SAGA_SECONDS
    while True:
        request = saga_pb2.WatchSagaRequest(saga_id=saga_id, after_version=seen)
        metadata = [("l5d-dst-override", COORDINATOR)]
        try:
            left = deadline - time.monotonic()
            for message in sagas.WatchSaga(request, timeout=left, metadata=metadata):
                seen = max(seen, message.event.version)
                for transition in message.event.transitions:
                    kind = transition.WhichOneof("kind")
                    change = getattr(transition, kind)
                    undoing = getattr(change, "direction", None) == event_pb2.DIRECTION_COMPENSATION
                    print(f"  {kind} {getattr(change, 'step', '')}{' (undoing)' * undoing}".rstrip())
                    if kind == "ended":
                        return event_pb2.SagaState.Name(change.state).removeprefix("SAGA_STATE_")
        except grpc.RpcError as error:
            # The order is on record before its saga is started, so it may not be there yet.
            if error.code() not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE):
                raise
        time.sleep(0.1)


def main() -> None:
    metadata = [("authorization", f"Bearer {os.environ['SAGAMESH_TOKEN']}")]
    gateway = os.environ.get("SAGAMESH_GATEWAY", "127.0.0.1:8080")
    operator = os.environ["SAGAMESH_OPERATOR"]
    options = [("grpc.service_config", SERVICE_CONFIG.read_text())]
    with grpc.insecure_channel(gateway, options=options) as shop, grpc.insecure_channel(operator) as coordinator:
        orders = orders_pb2_grpc.OrderServiceStub(shop)
        sagas = saga_pb2_grpc.SagaServiceStub(coordinator)

        for request in (order("keyboard", 1), order("keyboard", 1, "pm_declined")):
            placed = orders.PlaceOrder(request, timeout=CALL_SECONDS, metadata=metadata).order
            print(f"order {placed.order_id}")
            print(f"saga {watch(sagas, placed.saga_id)}")
            get = orders_pb2.GetOrderRequest(order_id=placed.order_id)
            now = orders.GetOrder(get, timeout=CALL_SECONDS, metadata=metadata).order
            status = orders_pb2.OrderStatus.Name(now.status).removeprefix("ORDER_STATUS_")
            print(f"order {status} {now.rejection_reason}".rstrip())

        refused = {
            "no such quantity": order("keyboard", 0),
            "more than there is": order("keyboard", 9999),
        }
        for what, request in refused.items():
            try:
                orders.PlaceOrder(request, timeout=CALL_SECONDS, metadata=metadata)
            except grpc.RpcError as error:
                print(f"{what}: {explain(error)}")
        try:
            orders.PlaceOrder(order("keyboard", 1), timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            print(f"no token: {explain(error)}")


main()
