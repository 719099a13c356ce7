package pki_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/pki"
)

// canaries returns the forms in which a private key could leak.
func canaries(t *testing.T, key *pki.Key) []string {
	t.Helper()
	block, _ := pem.Decode(must(key.PEM()))
	parsed := must(x509.ParsePKCS8PrivateKey(block.Bytes))
	d := must(parsed.(*ecdsa.PrivateKey).Bytes())
	return []string{
		new(big.Int).SetBytes(d).String(), hex.EncodeToString(d), strings.ToUpper(hex.EncodeToString(d)),
		fmt.Sprint(d), base64.StdEncoding.EncodeToString(d), base64.StdEncoding.EncodeToString(block.Bytes)[40:80],
	}
}

// TestKeysDoNotPrint covers attack 53 for what this package holds.
func TestKeysDoNotPrint(t *testing.T) {
	root := must(pki.NewCA(pki.Agent, domain, epoch))
	ca := must(root.Intermediate(epoch))
	key := newKey(t)
	f := writeFiles(t, key, signAgent(t, ca, key, "reader"), ca.Roots())
	source := f.source(t)
	for _, tt := range []struct {
		key   *pki.Key
		value any
	}{
		{key, key}, {key, *key}, {key, struct{ K *pki.Key }{key}}, {key, []pki.Key{*key}}, {key, map[string]*pki.Key{"k": key}},
		{root.Key(), root}, {root.Key(), *root}, {ca.Key(), ca}, {ca.Key(), *ca}, {key, source},
		{key, must(source.ClientTLS("x").GetClientCertificate(nil))},
	} {
		var out strings.Builder
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			fmt.Fprintf(&out, verb+"\n", tt.value)
		}
		text, err := json.Marshal(tt.value)
		if err == nil {
			out.Write(text)
		}
		for _, c := range canaries(t, tt.key) {
			if strings.Contains(out.String(), c) {
				t.Errorf("%T shows its key", tt.value)
			}
		}
	}
	// The canaries are real: printing the bare key does show one.
	block, _ := pem.Decode(must(key.PEM()))
	bare := fmt.Sprintf("%v", must(x509.ParsePKCS8PrivateKey(block.Bytes)))
	shown := false
	for _, c := range canaries(t, key) {
		shown = shown || strings.Contains(bare, c)
	}
	if !shown {
		t.Error("no canary is found where the key is printed")
	}
}

func TestParseKey(t *testing.T) {
	key := newKey(t)
	good := must(key.PEM())
	again, err := pki.ParseKey(good)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(must(again.PEM()), good) {
		t.Error("parsing and encoding gives another key")
	}
	block, _ := pem.Decode(good)
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	parsed := must(x509.ParsePKCS8PrivateKey(block.Bytes)).(*ecdsa.PrivateKey)
	secret := canaries(t, key)
	lines := strings.Split(string(good), "\n")
	for name, text := range map[string][]byte{
		"empty":        nil,
		"cut":          good[:len(good)/2],
		"damaged":      bytes.Replace(good, []byte("MIG"), []byte("MIX"), 1),
		"bad base64":   []byte(strings.Replace(string(good), lines[2], "*"+lines[2][1:], 1)),
		"text before":  append([]byte("seed: x\n"), good...),
		"text after":   append(bytes.Clone(good), lines[2]...),
		"twice":        append(bytes.Clone(good), good...),
		"sec1":         pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: must(x509.MarshalECPrivateKey(parsed))}),
		"sec1 as pkcs": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalECPrivateKey(parsed))}),
		"p384":         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(p384))}),
		"certificate":  newCA(t, pki.Agent).Roots(),
	} {
		_, err := pki.ParseKey(text)
		if err == nil {
			t.Errorf("%s: parsed", name)
			continue
		}
		for _, c := range append(secret, lines[1], lines[2]) {
			if strings.Contains(err.Error(), c) {
				t.Errorf("%s: the error shows the key", name)
			}
		}
	}
}
