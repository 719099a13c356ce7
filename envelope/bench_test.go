package envelope_test

import (
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// What a message costs, each beside the bare signature over the same bytes, and
// what refusing one costs before any signature is looked at:
//
//	go test -run '^$' -bench . ./envelope

var payloads = []int{256, 16 << 10}

func benchFields(a identity) envelope.Fields {
	f := a.fields()
	f.Parent, f.Hop = f.Nonce, 1
	f.Token = envelope.Digest{1}.String()
	f.Deadline = 30e9
	return f
}

func BenchmarkSign(b *testing.B) {
	a := agent(b, "writer")
	f := benchFields(a)
	for _, size := range payloads {
		data := make([]byte, size)
		m, _ := a.sign(b, f, call, nil, string(data), nil)
		signed := envelope.SignedBytes(domain, call, text(m), data, nil)
		b.Run(fmt.Sprint("envelope/", size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := envelope.Sign(domain, a.key, f, call, nil, data, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprint("bare/", size), func(b *testing.B) {
			private := ed25519.NewKeyFromSeed(seedOf("writer"))
			b.ReportAllocs()
			for b.Loop() {
				ed25519.Sign(private, signed)
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	a := agent(b, "writer")
	for _, size := range payloads {
		data := make([]byte, size)
		m, _ := a.sign(b, benchFields(a), call, nil, string(data), nil)
		b.Run(fmt.Sprint("envelope/", size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := a.verify(m, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprint("bare/", size), func(b *testing.B) {
			signed := envelope.SignedBytes(domain, call, text(m), data, nil)
			sig := ed25519.Sign(ed25519.NewKeyFromSeed(seedOf("writer")), signed)
			b.ReportAllocs()
			for b.Loop() {
				if !ed25519.Verify(a.public, signed, sig) {
					b.Fatal("does not verify")
				}
			}
		})
	}
}

// BenchmarkRatio takes turns, so that a machine with other work slows both sides:
// the ratio of the medians is what the format, and the hash of a small payload,
// cost beside the signature.
func BenchmarkRatio(b *testing.B) {
	a := agent(b, "writer")
	f, data := benchFields(a), make([]byte, 256)
	m, _ := a.sign(b, f, call, nil, string(data), nil)
	signed := envelope.SignedBytes(domain, call, text(m), data, nil)
	private := ed25519.NewKeyFromSeed(seedOf("writer"))
	sig := ed25519.Sign(private, signed)
	for name, pair := range map[string][2]func(){
		"sign": {
			func() { envelope.Sign(domain, a.key, f, call, nil, data, nil) },
			func() { ed25519.Sign(private, signed) },
		},
		"verify": {
			func() { a.verify(m, nil) },
			func() { ed25519.Verify(a.public, signed, sig) },
		},
	} {
		b.Run(name, func(b *testing.B) {
			var took [2][]time.Duration
			for b.Loop() {
				for i, run := range pair {
					start := time.Now()
					run()
					took[i] = append(took[i], time.Since(start))
				}
			}
			slices.Sort(took[0])
			slices.Sort(took[1])
			n := len(took[0]) / 2
			b.ReportMetric(float64(took[0][n]), "ns-envelope")
			b.ReportMetric(float64(took[1][n]), "ns-bare")
			b.ReportMetric(float64(took[0][n])/float64(took[1][n]), "ratio")
		})
	}
}

// BenchmarkRefuse: everything that a stranger can send without a signature that
// holds, up to the point at which one would be checked.
func BenchmarkRefuse(b *testing.B) {
	a := agent(b, "writer")
	m, _ := a.sign(b, benchFields(a), call, nil, "tail", nil)
	memory := memory(b, 0, 0)
	used := a.mustVerify(b, m, nil)
	if err := memory.Use(used, envelope.MemoryOnly, t0); err != nil {
		b.Fatal(err)
	}
	crowd := with(m, "A", "1")
	for i := range 10_000 {
		crowd.Header[fmt.Sprint("X-", i)] = []string{"1"}
	}
	full := with(m, "Mesh-X", "1")
	for i := range 32 {
		full.Header[fmt.Sprint("X-", i)] = []string{"some value"}
	}
	moved := m
	moved.Subject = "mesh.call.reader.read.logs"
	for name, c := range map[string]envelope.Message{
		"unsigned":         {Subject: call, Data: []byte("tail")},
		"10,000 headers":   crowd,
		"32 headers":       full,
		"long envelope":    with(m, envelope.HeaderEnvelope, strings.Repeat("v", 1<<20)),
		"not an envelope":  with(m, envelope.HeaderEnvelope, strings.Repeat("v=1;", 200)),
		"last field wrong": with(m, envelope.HeaderEnvelope, strings.Replace(text(m), "dl=", "dl=0", 1)),
		"other version":    with(m, envelope.HeaderEnvelope, "v=2"+text(m)[3:]),
		"bad signature":    with(m, envelope.HeaderSignature, "ed25519:"+strings.Repeat("_", 86)),
		"another's name":   moved,
		"replayed":         m,
	} {
		b.Run(strings.ReplaceAll(name, " ", "-"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				u, err := envelope.Parse(c)
				if err == nil {
					_, err = u.CheckSubject(subject.Default())
				}
				if err == nil {
					err = u.CheckTime(t0, envelope.DefaultWindow())
				}
				if err == nil {
					err = memory.Seen(u, envelope.MemoryOnly, t0)
				}
				if err == nil {
					b.Fatal("not refused")
				}
			}
		})
	}
}

func BenchmarkReplay(b *testing.B) {
	a := agent(b, "writer")
	b.Run("seen", func(b *testing.B) {
		m := memory(b, 0, 0)
		u := mustParse(b, a.message(b, t0))
		b.ReportAllocs()
		for b.Loop() {
			if err := m.Seen(u, envelope.MemoryOnly, t0); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("use", func(b *testing.B) {
		vs := make([]*envelope.Verified, 4096)
		for i := range vs {
			vs[i] = a.mustVerify(b, a.message(b, t0), nil)
		}
		m, i := memory(b, 0, 0), 0
		b.ReportAllocs()
		for b.Loop() {
			if i == len(vs) {
				m, i = memory(b, 0, 0), 0
			}
			if err := m.Use(vs[i], envelope.MemoryOnly, t0); err != nil {
				b.Fatal(err)
			}
			i++
		}
	})
}

// The promise in allocations holds at every run, however loaded the machine is.
func TestAllocations(t *testing.T) {
	a := agent(t, "writer")
	f, data := benchFields(a), make([]byte, 256)
	m, _ := a.sign(t, f, call, nil, string(data), nil)
	if got := testing.AllocsPerRun(100, func() {
		if _, _, err := envelope.Sign(domain, a.key, f, call, nil, data, nil); err != nil {
			t.Fatal(err)
		}
	}); got > 6 {
		t.Errorf("Sign makes %v allocations, want at most 6", got)
	}
	if got := testing.AllocsPerRun(100, func() {
		if _, err := a.verify(m, nil); err != nil {
			t.Fatal(err)
		}
	}); got > 6 {
		t.Errorf("Parse and Verify make %v allocations, want at most 6", got)
	}
}
