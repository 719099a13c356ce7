package controlplane_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// refusedByBroker reports whether the server has refused something on the
// connection for its permissions.
func refusedByBroker(t *testing.T, nc *nats.Conn) bool {
	t.Helper()
	if err := nc.Flush(); err != nil { // a refusal comes before the answer
		t.Fatal(err)
	}
	return errors.Is(nc.LastError(), nats.ErrPermissionViolation)
}

// Plain rights open one subject in one direction to a client that knows nothing
// of the mesh, and go with the connection when they are taken back.
func TestPlainRights(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	stock := func(id string, p registry.Plain) string {
		return add(t, ctx, m, registry.NewAgent{Agent: agentid.Require(id), Stock: true, Rights: registry.Rights{Plain: p}})
	}
	shop := stock("shop", registry.Plain{Publish: []string{"legacy.orders"}})
	store := stock("store", registry.Plain{Subscribe: []string{"legacy.orders"}})
	pub, err := raw(t, shop)
	if err != nil {
		t.Fatal(err)
	}
	sub, err := raw(t, store)
	if err != nil {
		t.Fatal(err)
	}
	orders, err := sub.SubscribeSync("legacy.orders")
	if err != nil {
		t.Fatal(err)
	}
	if refusedByBroker(t, sub) {
		t.Fatalf("got %v, want the subscription", sub.LastError())
	}
	if err := pub.Publish("legacy.orders", []byte("tea")); err != nil {
		t.Fatal(err)
	}
	if refusedByBroker(t, pub) {
		t.Fatalf("got %v, want it published", pub.LastError())
	}
	if msg, err := orders.NextMsg(5 * time.Second); err != nil || string(msg.Data) != "tea" {
		t.Fatalf("got %v, %v, want what was published", msg, err)
	}
	v := show(t, ctx, m, "shop")
	if strings.Join(v.Plain.Publish, " ") != "legacy.orders" || v.Plain.Subscribe == nil || len(v.Plain.Subscribe) != 0 || !v.Stock {
		t.Errorf("got plain %+v, stock %v", v.Plain, v.Stock)
	}

	// Neither the other direction nor what lies beside.
	if _, err := pub.SubscribeSync("legacy.orders"); err != nil {
		t.Fatal(err)
	}
	if !refusedByBroker(t, pub) {
		t.Error("whoever may publish could subscribe")
	}
	if err := sub.Publish("legacy.orders", nil); err != nil {
		t.Fatal(err)
	}
	if !refusedByBroker(t, sub) {
		t.Error("whoever may subscribe could publish")
	}
	beside, err := raw(t, store)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := beside.SubscribeSync("legacy.*"); err != nil {
		t.Fatal(err)
	}
	if !refusedByBroker(t, beside) {
		t.Error("a wildcard over the subject was taken")
	}

	// The control plane refuses what is not outside, whatever asks for it.
	for _, s := range []string{"mesh.event.store.news", "$JS.API.INFO", "_INBOX_store_00000000.x", "legacy.>", "a b"} {
		err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpGrant, Target: "shop", Rights: registry.Rights{Plain: registry.Plain{Subscribe: []string{s}}}}, nil)
		if !errors.Is(err, denial.BadPlain) {
			t.Errorf("granting %q: got %v, want %s", s, err, denial.BadPlain)
		}
	}

	var r wire.CutResult
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpUngrant, Target: "shop", Rights: registry.Rights{Plain: registry.Plain{Publish: []string{"legacy.orders"}}}}, &r); err != nil {
		t.Fatal(err)
	}
	if r.Cut != 1 || !r.Confirmed || r.Epoch != 2 {
		t.Errorf("got %+v, want one confirmed cut in epoch 2", r)
	}
	eventually(t, ctx, "the cut", pub.IsClosed)
	again, err := raw(t, shop)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Publish("legacy.orders", nil); err != nil {
		t.Fatal(err)
	}
	if !refusedByBroker(t, again) {
		t.Error("the right was taken back, and a new connection has it")
	}
}

// What the server answers goes where whoever asks says, and permissions are not
// asked: an agent without any plain right makes itself heard at a plain subject.
// The operations guide says so; where this fails, it can say less.
func TestPlainSubjectsProveNothing(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	sub, err := raw(t, add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("store"), Stock: true, Rights: registry.Rights{Plain: registry.Plain{Subscribe: []string{"legacy.orders"}}}}))
	if err != nil {
		t.Fatal(err)
	}
	orders, err := sub.SubscribeSync("legacy.orders")
	if err != nil {
		t.Fatal(err)
	}
	if refusedByBroker(t, sub) {
		t.Fatal(sub.LastError())
	}
	bad, err := raw(t, add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("bad"), Stock: true}))
	if err != nil {
		t.Fatal(err)
	}
	if err := bad.PublishRequest(subject.DirectGet(subject.AgentsBucket, "bad"), "legacy.orders", nil); err != nil {
		t.Fatal(err)
	}
	if refusedByBroker(t, bad) {
		t.Fatal(bad.LastError())
	}
	if _, err := orders.NextMsg(5 * time.Second); err != nil {
		t.Errorf("got %v, want the server's answer", err)
	}
}
