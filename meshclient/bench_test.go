package meshclient_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/meshclient/meshtest"
)

// BenchmarkCall is one verified call, there and back, over TLS and with the
// nonce burnt in the shared store; BenchmarkPlainRequest is what the same
// machine does with plain NATS. Their ratio is what the mesh costs.
func BenchmarkCall(b *testing.B) {
	m := meshtest.New(b)
	reader := m.Agent("reader", meshtest.Handles("read:logs"))
	asker := m.Agent("asker", meshtest.Calls("read:logs"))
	if err := reader.Handle("read:logs", echo); err != nil {
		b.Fatal(err)
	}
	payload := make([]byte, 256)
	ctx := context.Background()
	if _, err := asker.Call(ctx, "read:logs", payload); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := asker.Call(ctx, "read:logs", payload); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCallParallel is the same with many callers at once.
func BenchmarkCallParallel(b *testing.B) {
	m := meshtest.New(b)
	reader := m.Agent("reader", meshtest.Handles("read:logs"))
	asker := m.Agent("asker", meshtest.Calls("read:logs"))
	if err := reader.Handle("read:logs", echo); err != nil {
		b.Fatal(err)
	}
	payload := make([]byte, 256)
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := asker.Call(context.Background(), "read:logs", payload); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkPlainRequest(b *testing.B) {
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	if err != nil {
		b.Fatal(err)
	}
	go srv.Start()
	defer srv.Shutdown()
	if !srv.ReadyForConnections(10 * time.Second) {
		b.Fatal("nats-server did not start")
	}
	handler, err := nats.Connect(srv.ClientURL())
	if err != nil {
		b.Fatal(err)
	}
	defer handler.Close()
	if _, err := handler.Subscribe("read.logs", func(m *nats.Msg) { m.Respond(m.Data) }); err != nil {
		b.Fatal(err)
	}
	if err := handler.Flush(); err != nil {
		b.Fatal(err)
	}
	caller, err := nats.Connect(srv.ClientURL())
	if err != nil {
		b.Fatal(err)
	}
	defer caller.Close()
	payload := make([]byte, 256)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := caller.Request("read.logs", payload, nats.DefaultTimeout); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLargeCall sends 16 MiB there, in parts, and back.
func BenchmarkLargeCall(b *testing.B) {
	m := meshtest.New(b)
	reader := m.Agent("reader", meshtest.Handles("read:logs"))
	asker := m.Agent("asker", meshtest.Calls("read:logs"))
	if err := reader.Handle("read:logs", echo); err != nil {
		b.Fatal(err)
	}
	payload := make([]byte, 16<<20)
	for name, opts := range map[string][]meshclient.CallOption{
		"plain": nil, "sealed": {meshclient.To("reader"), meshclient.Sealed()},
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(2 * int64(len(payload)))
			for b.Loop() {
				if _, err := asker.Call(context.Background(), "read:logs", payload, opts...); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
