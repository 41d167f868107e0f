// Places an order, watches its saga to the end, and handles what goes wrong, with its details.
//
//	SAGAMESH_GATEWAY   host:port of the gateway, where orders are placed with SAGAMESH_TOKEN
//	SAGAMESH_OPERATOR  host:port of the operator's sidecar, through which the coordinator shows sagas; without a mesh the coordinator itself
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"

	saga "sagamesh.example/clients/go/gen/saga/v1"
	orders "sagamesh.example/clients/go/gen/shop/orders/v1"
)

const (
	coordinator = "coordinator.sagamesh.svc.cluster.local:50051"
	callTime    = 10 * time.Second
	sagaTime    = 60 * time.Second
)

// explain puts an error in words: its code, and the details that every error of sagamesh carries.
func explain(err error) string {
	problem := status.Convert(err)
	parts := []string{code.Code(problem.Code()).String()}
	for _, detail := range problem.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			parts = append(parts, fmt.Sprintf("%s of %s", detail.Reason, detail.Domain))
		case *errdetails.BadRequest:
			for _, wrong := range detail.FieldViolations {
				parts = append(parts, fmt.Sprintf("%s: %s", wrong.Field, wrong.Description))
			}
		case *errdetails.RetryInfo:
			parts = append(parts, fmt.Sprintf("again after %s", detail.RetryDelay.AsDuration()))
		}
	}
	return strings.Join(parts, "; ")
}

// order makes an order under a new request id: who repeats the request gets the same order.
func order(sku string, quantity uint32, paymentMethod string) *orders.PlaceOrderRequest {
	return &orders.PlaceOrderRequest{
		RequestId:     uuid(),
		Lines:         []*orders.OrderLine{{Sku: sku, Quantity: quantity}},
		PaymentMethod: paymentMethod,
		Currency:      "EUR",
	}
}

// uuid makes a random one (version 4).
func uuid() string {
	var id [16]byte
	rand.Read(id[:])
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// watch prints a saga's history until it ends, and returns how. A stream that breaks is opened again after the last event seen.
func watch(ctx context.Context, sagas saga.SagaServiceClient, sagaID string) (saga.SagaState, error) {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, "l5d-dst-override", coordinator), sagaTime)
	defer cancel()
	var seen uint64
	for {
		ended, err := follow(ctx, sagas, sagaID, &seen)
		if ended != nil {
			return ended.State, nil
		}
		// The order is on record before its saga is started, so it may not be there yet.
		problem := status.Code(err)
		if err != io.EOF && problem != codes.NotFound && problem != codes.Unavailable {
			return 0, err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// follow reads one stream to its end; it keeps the version of the last event in seen.
func follow(ctx context.Context, sagas saga.SagaServiceClient, sagaID string, seen *uint64) (*saga.Ended, error) {
	events, err := sagas.WatchSaga(ctx, &saga.WatchSagaRequest{SagaId: sagaID, AfterVersion: *seen})
	if err != nil {
		return nil, err
	}
	for {
		message, err := events.Recv()
		if err != nil {
			return nil, err
		}
		*seen = max(*seen, message.GetEvent().GetVersion())
		for _, transition := range message.GetEvent().GetTransitions() {
			fmt.Println(" ", describe(transition))
			if ended := transition.GetEnded(); ended != nil {
				return ended, nil
			}
		}
	}
}

// describe names the kind of a transition and its step, if it has one.
func describe(transition *saga.Transition) string {
	message := transition.ProtoReflect()
	kind := message.WhichOneof(message.Descriptor().Oneofs().ByName("kind"))
	words := string(kind.Name())
	if step := kind.Message().Fields().ByName("step"); step != nil && step.Kind() == protoreflect.StringKind {
		words += " " + message.Get(kind).Message().Get(step).String()
	}
	undone, _ := message.Get(kind).Message().Interface().(interface{ GetDirection() saga.Direction })
	if undone != nil && undone.GetDirection() == saga.Direction_DIRECTION_COMPENSATION {
		words += " (undoing)"
	}
	return strings.TrimSpace(words)
}

func dial(address string, options ...grpc.DialOption) *grpc.ClientConn {
	options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))
	connection, err := grpc.NewClient(address, options...)
	if err != nil {
		log.Fatal(err)
	}
	return connection
}

func main() {
	gateway := os.Getenv("SAGAMESH_GATEWAY")
	if gateway == "" {
		gateway = "127.0.0.1:8080"
	}
	token, operator := os.Getenv("SAGAMESH_TOKEN"), os.Getenv("SAGAMESH_OPERATOR")
	if token == "" || operator == "" {
		log.Fatal("SAGAMESH_TOKEN and SAGAMESH_OPERATOR must be set; README.md says to what")
	}
	// Timeouts and retries as the mesh's policies have them, for who has no sidecar.
	config, err := os.ReadFile("../service-config.json")
	if err != nil {
		log.Fatal("run this in clients/go: ", err)
	}
	shop, operated := dial(gateway, grpc.WithDefaultServiceConfig(string(config))), dial(operator)
	defer shop.Close()
	defer operated.Close()
	client, sagas := orders.NewOrderServiceClient(shop), saga.NewSagaServiceClient(operated)
	customer := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+token)
	place := func(ctx context.Context, request *orders.PlaceOrderRequest) (*orders.Order, error) {
		ctx, cancel := context.WithTimeout(ctx, callTime)
		defer cancel()
		placed, err := client.PlaceOrder(ctx, request)
		return placed.GetOrder(), err
	}

	for _, method := range []string{"pm_ok", "pm_declined"} {
		placed, err := place(customer, order("keyboard", 1, method))
		if err != nil {
			log.Fatal(explain(err))
		}
		fmt.Println("order", placed.OrderId)
		state, err := watch(context.Background(), sagas, placed.SagaId)
		if err != nil {
			log.Fatal(explain(err))
		}
		fmt.Println("saga", strings.TrimPrefix(state.String(), "SAGA_STATE_"))
		ctx, cancel := context.WithTimeout(customer, callTime)
		now, err := client.GetOrder(ctx, &orders.GetOrderRequest{OrderId: placed.OrderId})
		cancel()
		if err != nil {
			log.Fatal(explain(err))
		}
		words := strings.TrimPrefix(now.Order.Status.String(), "ORDER_STATUS_") + " " + now.Order.RejectionReason
		fmt.Println("order", strings.TrimSpace(words))
	}

	_, err = place(customer, order("keyboard", 0, "pm_ok"))
	fmt.Println("no such quantity:", explain(err))
	_, err = place(customer, order("keyboard", 9999, "pm_ok"))
	fmt.Println("more than there is:", explain(err))
	_, err = place(context.Background(), order("keyboard", 1, "pm_ok"))
	fmt.Println("no token:", explain(err))
}
