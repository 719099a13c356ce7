package controlplane_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sealmesh/sealmesh/internal/meshdir"
)

// issuer is an OpenID Connect issuer with a key of each usual kind.
type issuer struct {
	*httptest.Server
	t       *testing.T
	ca      string // file
	rsa     *rsa.PrivateKey
	ec      *ecdsa.PrivateKey
	keysURL string

	mu    sync.Mutex
	asked map[string]int
	away  bool
	keys  []map[string]string
	serve func(w http.ResponseWriter, r *http.Request) bool // true: it answered
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{t: t, asked: map[string]int{}}
	i.Server = httptest.NewTLSServer(i)
	t.Cleanup(i.Close)
	i.keysURL = i.URL + "/keys"
	i.ca = filepath.Join(t.TempDir(), "issuer.crt")
	if err := os.WriteFile(i.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if i.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	if i.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	point, err := i.ec.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	i.keys = []map[string]string{
		{"kty": "RSA", "kid": "rsa", "use": "sig", "n": raw64(i.rsa.N.Bytes()), "e": raw64(big.NewInt(int64(i.rsa.E)).Bytes())},
		{"kty": "EC", "kid": "ec", "crv": "P-256", "x": raw64(point[1:33]), "y": raw64(point[33:])},
	}
	return i
}

func raw64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// config is how sealmesh.yaml lists it.
func (i *issuer) config() meshdir.OIDC { return meshdir.OIDC{Issuer: i.URL, CAFile: i.ca} }

func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked[r.URL.Path]++
	if i.serve != nil && i.serve(w, r) {
		return
	}
	if i.away {
		http.Error(w, "away", http.StatusBadGateway)
		return
	}
	var v any
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		v = map[string]any{"issuer": i.URL, "jwks_uri": i.keysURL, "id_token_signing_alg_values_supported": []string{"RS256", "HS256", "none"}}
	case "/keys":
		v = map[string]any{"keys": i.keys}
	default:
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		i.t.Error(err)
	}
}

func (i *issuer) count(path string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked[path]
}

func (i *issuer) set(f func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f()
}

// sign makes a token: by the header's alg, and with what the alg needs.
func (i *issuer) sign(alg, kid string, claims map[string]any) string {
	i.t.Helper()
	head, err := json.Marshal(map[string]string{"alg": alg, "kid": kid, "typ": "JWT"})
	if err != nil {
		i.t.Fatal(err)
	}
	body, err := json.Marshal(claims)
	if err != nil {
		i.t.Fatal(err)
	}
	text := raw64(head) + "." + raw64(body)
	sum := sha256.Sum256([]byte(text))
	var sig []byte
	switch {
	case strings.HasPrefix(alg, "RS"):
		sig, err = rsa.SignPKCS1v15(rand.Reader, i.rsa, crypto.SHA256, sum[:])
	case strings.HasPrefix(alg, "ES"):
		var r, s *big.Int
		if r, s, err = ecdsa.Sign(rand.Reader, i.ec, sum[:]); err == nil {
			sig = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		}
	case alg == "HS256":
		// The trick that this alg is known for: the public key, which everybody
		// knows, as the shared one.
		der, e := x509.MarshalPKIXPublicKey(&i.rsa.PublicKey)
		if err = e; err == nil {
			m := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
			m.Write([]byte(text))
			sig = m.Sum(nil)
		}
	}
	if err != nil {
		i.t.Fatal(err)
	}
	return text + "." + raw64(sig)
}
