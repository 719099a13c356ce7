package gate_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// What the door costs when everything is known, beside the bare signature check
// over the same bytes, and what it costs to turn junk away:
//
//	go test -run '^$' -bench . ./internal/gate

// BenchmarkAdmit judges calls whose sender and chains are known. The shared
// store is left out; signing is not measured.
func BenchmarkAdmit(b *testing.B) {
	w := newWorld(b)
	w.gate = must[*gate.Gate](b)(gate.New(gate.Config{
		Self: w.enrol("reader").id, TrustDomain: domain, Space: subject.Default(), Peers: w.peers, Reader: w.store,
		Burner: burner(func() error { return nil }), Window: envelope.DefaultWindow(), Clock: w.clock.Now,
		Seen: must[*envelope.Memory](b)(envelope.NewMemory(envelope.MemoryConfig{
			Window: envelope.DefaultWindow(), Since: t0.Add(-limits.RestartSlack), Nonces: 1 << 24, PerSender: 1 << 23,
		})),
	}))
	a, helper := w.enrol("writer", "read:logs"), w.enrol("helper")
	lent := a.delegate(w.verify(w.store.chains[a.chain]), helper, "read:logs")
	delegated := func() *attempt {
		at := helper.call()
		at.fields.Token = lent.Digest()
		return at
	}
	for _, tt := range []struct {
		name string
		make func() *attempt
	}{{"call", a.call}, {"delegated", delegated}, {"note", a.note}} {
		b.Run(tt.name, func(b *testing.B) {
			want := tt.make().want
			wantReason(b, tt.make().to(w.node), "")
			const batch = 1024
			messages := make([]envelope.Message, batch)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				if i%batch == 0 {
					b.StopTimer()
					for j := range messages {
						messages[j] = tt.make().message()
					}
					b.StartTimer()
				}
				if _, err := w.gate.Admit(b.Context(), messages[i%batch], want); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	// By turns, so that a machine with other work slows both sides: the ratio of
	// the medians is what the door costs beside its one signature check.
	b.Run("ratio", func(b *testing.B) {
		public := must[[]byte](b)(nkeys.Decode(nkeys.PrefixByteUser, []byte(a.key.PublicKey())))
		var door, bare []time.Duration
		for b.Loop() {
			at := a.call()
			m := at.message()
			signed := signedBytes(m)
			sig := must[[]byte](b)(base64.RawURLEncoding.DecodeString(strings.TrimPrefix(m.Header[envelope.HeaderSignature][0], "ed25519:")))
			start := time.Now()
			if _, err := w.gate.Admit(b.Context(), m, at.want); err != nil {
				b.Fatal(err)
			}
			middle := time.Now()
			if !ed25519.Verify(public, signed, sig) {
				b.Fatal("does not verify")
			}
			door, bare = append(door, middle.Sub(start)), append(bare, time.Since(middle))
		}
		slices.Sort(door)
		slices.Sort(bare)
		n := len(door) / 2
		b.ReportMetric(float64(door[n]), "ns-gate")
		b.ReportMetric(float64(bare[n]), "ns-bare")
		b.ReportMetric(float64(door[n])/float64(bare[n]), "ratio")
	})
}

// signedBytes are those of docs/spec/envelope.md, of a message that is no reply.
func signedBytes(m envelope.Message) []byte {
	hash := sha256.Sum256(m.Data)
	b := []byte("sealmesh-envelope-v1\n")
	for _, item := range []string{domain, m.Subject, m.Header[envelope.HeaderEnvelope][0], string(hash[:])} {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(item))), item...)
	}
	return b
}

// BenchmarkRefuse turns junk away, by the step that does. Who was never enrolled
// is looked up until its share of look-ups is used up, and then no more.
func BenchmarkRefuse(b *testing.B) {
	for name, spoil := range map[string]func(*world, *actor){
		"unknown sender": func(w *world, a *actor) { w.store.records = map[string]string{} },
		"seen nonce":     func(*world, *actor) {},
	} {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b)
			a := w.enrol("writer", "read:logs")
			spoil(w, a)
			at := a.call()
			m := at.message()
			for range 1000 {
				w.gate.Admit(b.Context(), m, at.want)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.gate.Admit(b.Context(), m, at.want); err == nil {
					b.Fatal("admitted")
				}
			}
		})
	}
	for _, f := range faults {
		switch f.name {
		case "authority", "shared store":
			continue // costs a signature check, and reads
		}
		b.Run(f.name, func(b *testing.B) {
			w := newWorld(b)
			a := w.enrol("writer", "read:logs")
			wantReason(b, a.call().to(w.node), "")
			at := a.call()
			f.make(w, at)
			if f.name == "standing" {
				w.peers.Observe("writer", w.store.records["writer"])
				at.fields.Epoch.Agent-- // of before it was suspended
			}
			m := at.message()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.gate.Admit(b.Context(), m, at.want); err == nil {
					b.Fatal("admitted")
				}
			}
		})
	}
}

// The promise in allocations holds at every run, however loaded the machine is.
func TestAdmitAllocations(t *testing.T) {
	w := newWorld(t)
	w.gate = must[*gate.Gate](t)(gate.New(gate.Config{
		Self: w.enrol("reader").id, TrustDomain: domain, Space: subject.Default(), Peers: w.peers, Reader: w.store,
		Burner: burner(func() error { return nil }), Seen: w.seen, Window: envelope.DefaultWindow(), Clock: w.clock.Now,
	}))
	a := w.enrol("writer", "read:logs")
	const runs = 100
	messages := make([]envelope.Message, runs+2) // one to warm up, one for AllocsPerRun
	for i := range messages {
		messages[i] = a.call().message()
	}
	want, i := a.call().want, 0
	admit := func() {
		if _, err := w.gate.Admit(t.Context(), messages[i], want); err != nil {
			t.Fatal(err)
		}
		i++
	}
	admit()
	if got := testing.AllocsPerRun(runs, admit); got > 6 {
		t.Errorf("Admit makes %v allocations, want at most 6", got)
	}
}
