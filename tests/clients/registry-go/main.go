// Consul's Go client (github.com/hashicorp/consul/api), unchanged, on the registry at HOST PORT: registers a service with an
// HTTP check, finds it while it is healthy, follows it with blocking queries, and deregisters it.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	wait  = 10 * time.Second
	looks = 20
)

func main() {
	log.SetFlags(0)
	config := api.DefaultConfig()
	config.Address = net.JoinHostPort(os.Args[1], os.Args[2])
	registry, err := api.NewClient(config)
	must(err)

	// A service whose health can be switched.
	var status atomic.Int32
	status.Store(http.StatusOK)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	port := listener.Addr().(*net.TCPAddr).Port
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(int(status.Load()))
	}))

	must(registry.Agent().ServiceRegister(&api.AgentServiceRegistration{
		ID:      "shelf-1",
		Name:    "shelf",
		Address: "127.0.0.1",
		Port:    port,
		Tags:    []string{"green"},
		Check: &api.AgentServiceCheck{
			HTTP:     fmt.Sprintf("http://127.0.0.1:%d/", port),
			Interval: "100ms",
			Timeout:  "1s",
		},
	}))

	found := passing(registry, 1)[0].Service
	expect(found.ID == "shelf-1" && found.Port == port && len(found.Tags) == 1, "found %+v", found)
	services, _, err := registry.Catalog().Services(nil)
	must(err)
	expect(len(services["shelf"]) == 1 && services["shelf"][0] == "green", "services are %v", services)
	own, err := registry.Agent().Services()
	must(err)
	expect(own["shelf-1"] != nil, "the agent has %v", own)

	status.Store(http.StatusServiceUnavailable)
	passing(registry, 0)
	all, _, err := registry.Health().Service("shelf", "", false, nil)
	must(err)
	expect(len(all) == 1, "an unhealthy instance is still registered: %v", all)
	status.Store(http.StatusOK)
	passing(registry, 1)

	must(registry.Agent().ServiceDeregister("shelf-1"))
	passing(registry, 0)
	services, _, err = registry.Catalog().Services(nil)
	must(err)
	expect(services["shelf"] == nil, "services are %v", services)
	fmt.Println("registered, found, followed, deregistered")
}

// passing follows the service until so many instances pass; each look waits for a change.
func passing(registry *api.Client, count int) []*api.ServiceEntry {
	var index uint64
	var found []*api.ServiceEntry
	for range looks {
		entries, meta, err := registry.Health().Service("shelf", "", true, &api.QueryOptions{WaitIndex: index, WaitTime: wait})
		must(err)
		index, found = meta.LastIndex, entries
		if len(found) == count {
			return found
		}
	}
	log.Fatalf("shelf has %d passing instances, not %d", len(found), count)
	return nil
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func expect(holds bool, format string, values ...any) {
	if !holds {
		log.Fatalf(format, values...)
	}
}
