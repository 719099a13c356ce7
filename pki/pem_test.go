package pki_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/pki"
)

func TestParseCertificates(t *testing.T) {
	ca := newCA(t, pki.Agent)
	one, key := ca.Roots(), must(ca.Key().PEM())
	pad := func(n int) []byte { return append(slices.Clone(one), bytes.Repeat([]byte("\n"), n-len(one))...) }
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for name, tt := range map[string]struct {
		text []byte
		want int // 0: refused
	}{
		"one":                 {one, 1},
		"bundle":              {ca.Bundle(), 2},
		"blank lines":         {join([]byte("\r\n\n"), one, []byte("\n\n"), one), 2},
		"no last newline":     {bytes.TrimSpace(one), 1},
		"most":                {bytes.Repeat(one, limits.Certificates), limits.Certificates},
		"one too many":        {bytes.Repeat(one, limits.Certificates+1), 0},
		"longest":             {pad(limits.CertificateText), 1},
		"one byte too long":   {pad(limits.CertificateText + 1), 0},
		"empty":               {nil, 0},
		"white space":         {[]byte(" \n"), 0},
		"key in the bundle":   {join(one, key), 0},
		"key alone":           {key, 0},
		"text before":         {join([]byte("subject=x\n"), one), 0},
		"text between":        {join(one, []byte("x\n"), one), 0},
		"text after":          {join(one, []byte("x")), 0},
		"damaged, then good":  {join([]byte("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"), one), 0},
		"unfinished and good": {join([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n"), one), 0},
		"headers":             {bytes.Replace(one, []byte("-----\n"), []byte("-----\nA: b\n\n"), 1), 0},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := pki.ParseCertificates(tt.text)
			if len(got) != tt.want || (err == nil) != (tt.want > 0) {
				t.Errorf("got %d certificates, %v; want %d", len(got), err, tt.want)
			}
		})
	}
	if !bytes.Equal(pki.EncodeCertificates(certs(t, ca.Bundle())...), ca.Bundle()) {
		t.Error("encoding again gives another text")
	}
}

func TestParsePool(t *testing.T) {
	ca := newCA(t, pki.Agent)
	if _, err := pki.ParsePool(append(ca.Roots(), signAgent(t, ca, newKey(t), "reader")...)); err == nil {
		t.Error("a pool took an agent's certificate as a root")
	}
	if p, err := pki.ParsePool(nil); err == nil || p != nil {
		t.Error("made a pool of nothing")
	}
}

// FuzzParseCertificates states that what parses survives encoding and parsing
// again, and that the limits hold.
func FuzzParseCertificates(f *testing.F) {
	ca := newCA(f, pki.Agent)
	f.Add(ca.Bundle())
	f.Add(append([]byte("-----BEGIN CERTIFICATE-----\n!\n"), ca.Roots()...))
	f.Add(bytes.ReplaceAll(ca.Roots(), []byte("\n"), []byte("\r\n")))
	f.Fuzz(func(t *testing.T, text []byte) {
		first, err := pki.ParseCertificates(text)
		if err != nil {
			return
		}
		if n := len(first); n == 0 || n > limits.Certificates || n != bytes.Count(text, []byte("-----BEGIN")) {
			t.Fatalf("got %d certificates of %d blocks", n, bytes.Count(text, []byte("-----BEGIN")))
		}
		again, err := pki.ParseCertificates(pki.EncodeCertificates(first...))
		if err != nil || len(again) != len(first) {
			t.Fatalf("got %d certificates, %v; want %d", len(again), err, len(first))
		}
		for i := range first {
			if !first[i].Equal(again[i]) {
				t.Fatalf("certificate %d changed", i)
			}
		}
	})
}
