package authcallout_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/subject"
)

func fifty() []string {
	var list []string
	for i := range 10 {
		list = append(list, fmt.Sprintf("read:logs.app%d", i), fmt.Sprintf("handle:write:reports.app%d", i),
			fmt.Sprintf("publish:builds.app%d", i), fmt.Sprintf("subscribe:builds.app%d", i), fmt.Sprintf("summarise:text%d", i))
	}
	return list
}

// Target: 100 µs.
func BenchmarkCompile50Scopes(b *testing.B) {
	in := authcallout.Subject{Agent: reader, Instance: instance, Scopes: scopes(fifty()...)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := authcallout.Compile(subject.Default(), in); err != nil {
			b.Fatal(err)
		}
	}
}

// One admission from the sealed request to the sealed answer, without a network
// and with a registry in memory.
func BenchmarkDecision(b *testing.B) {
	d := newDoor(b)
	d.cfg.Audit = nil
	d.open(b)
	d.registry.add(reader, public(b, d.key), authcallout.Admission{
		Chains: []*capability.Chain{d.authority.chain(b, reader, 48*time.Hour, fifty()...)}})
	data, xkey := d.seal(b, d.request(b)), public(b, d.curve)
	b.ReportAllocs()
	for b.Loop() {
		if len(d.svc.Process(data, xkey)) == 0 {
			b.Fatal("refused")
		}
	}
}

// What a junk request costs once its source is throttled.
func BenchmarkThrottled(b *testing.B) {
	d := newDoor(b)
	d.cfg.Audit = nil
	d.open(b)
	r := d.request(b)
	r.ConnectOptions.SignedNonce = ""
	data, xkey := d.seal(b, r), public(b, d.curve)
	for b.Loop() {
		d.svc.Process(data, xkey)
	}
}
