package meshclient_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/natstest"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/meshclient/meshtest"
	"github.com/sealmesh/sealmesh/registry"
)

// BenchmarkRate sets a verified call beside a plain NATS request, and beside one
// over TLS: the same payload, the same number of callers at a time, by turns in
// one run, so that a machine with other work slows all of them. It gives calls a
// second and, for each call, the median and the 99th of a hundred.
//
//	go test -run '^$' -bench Rate ./meshclient
func BenchmarkRate(b *testing.B) {
	payload := make([]byte, 256)
	m := meshtest.New(b)
	reader := m.Agent("reader", meshtest.Handles("read:logs"))
	asker := m.Agent("asker", meshtest.Calls("read:logs"))
	if err := reader.Handle("read:logs", echo); err != nil {
		b.Fatal(err)
	}
	plain, overTLS := plainCaller(b, nil), plainCaller(b, natstest.NewCA(b, "plain"))
	request := func(nc *nats.Conn) func() error {
		return func() error {
			_, err := nc.Request("read.logs", payload, 30*time.Second)
			return err
		}
	}
	kinds := []struct {
		name string
		call func() error
	}{
		{"plain", request(plain)},
		{"tls", request(overTLS)},
		{"mesh", func() error {
			_, err := asker.Call(context.Background(), "read:logs", payload)
			return err
		}},
	}
	for _, callers := range []int{1, 32} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			var took [3]time.Duration
			var each [3][]time.Duration
			batch := 16 * callers
			for i := range kinds {
				together(b, kinds[i].call, callers, batch) // everything is known before the clock runs
			}
			b.ResetTimer()
			for b.Loop() {
				for i, k := range kinds {
					start := time.Now()
					each[i] = append(each[i], together(b, k.call, callers, batch)...)
					took[i] += time.Since(start)
				}
			}
			rate := func(i int) float64 { return float64(len(each[i])) / took[i].Seconds() }
			for i, k := range kinds {
				b.ReportMetric(rate(i), k.name+"/s")
				report(b, k.name, each[i])
			}
			b.ReportMetric(rate(2)/rate(0), "mesh-of-plain")
			b.ReportMetric(rate(2)/rate(1), "mesh-of-tls")
		})
	}
}

// together makes n calls, some at a time, and returns what each took.
func together(b *testing.B, call func() error, callers, n int) []time.Duration {
	took := make([]time.Duration, n)
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := c; i < n; i += callers {
				start := time.Now()
				if err := call(); err != nil {
					b.Error(err)
					return
				}
				took[i] = time.Since(start)
			}
		})
	}
	wg.Wait()
	return slices.DeleteFunc(took, func(d time.Duration) bool { return d == 0 })
}

// plainCaller is a connection to a server of its own on which somebody answers.
func plainCaller(b *testing.B, ca *natstest.CA) *nats.Conn {
	o := &server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true}
	var opts []nats.Option
	if ca != nil {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{ca.Server(b).TLS(b)}}
		o.TLS, o.TLSTimeout = true, 10
		opts = append(opts, nats.Secure(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: ca.Pool()}))
	}
	srv, err := server.NewServer(o)
	if err != nil {
		b.Fatal(err)
	}
	go srv.Start()
	b.Cleanup(srv.Shutdown)
	if !srv.ReadyForConnections(30 * time.Second) {
		b.Fatal("nats-server did not start")
	}
	connect := func() *nats.Conn {
		nc, err := nats.Connect(srv.ClientURL(), opts...)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(nc.Close)
		return nc
	}
	handler := connect()
	// As a handler of the mesh does, each request by a goroutine of its own.
	if _, err := handler.Subscribe("read.logs", func(m *nats.Msg) { go m.Respond(m.Data) }); err != nil {
		b.Fatal(err)
	}
	if err := handler.Flush(); err != nil {
		b.Fatal(err)
	}
	return connect()
}

// BenchmarkChainFor is how long it takes to choose by which right a message is
// sent, which happens at both ends of every call, for agents to whom little and
// much was lent.
func BenchmarkChainFor(b *testing.B) {
	m := mesh(b, quiet())
	ctx := within(b, 5*time.Minute)
	boss := connected(b, m, enrolled(b, m, "boss", registry.Rights{Call: scopes("read:logs"), MayDelegate: scopes("read:logs")}))
	for _, lent := range []int{0, limits.Presented - 1} {
		name := fmt.Sprint("temp", lent)
		temp := connected(b, m, enrolled(b, m, name, registry.Rights{Call: scopes("do:own")}))
		for range lent {
			if _, err := boss.Delegate(ctx, name, meshclient.Grant{Scopes: []string{"read:logs"}, For: time.Hour}); err != nil {
				b.Fatal(err)
			}
		}
		for len(temp.Resting()) < lent {
			time.Sleep(10 * time.Millisecond) // it connects anew with what was lent
		}
		for _, scope := range []string{"do:own", "read:logs"} {
			if lent == 0 && scope != "do:own" {
				continue
			}
			b.Run(fmt.Sprintf("%d-lent/%s", lent, strings.ReplaceAll(scope, ":", ".")), func(b *testing.B) {
				s := capability.RequireScope(scope)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := temp.ChainFor(ctx, s); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
