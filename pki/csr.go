package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/url"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

const csrBlock = "CERTIFICATE REQUEST"

// emptyName is the DER of a distinguished name with nothing in it.
var emptyName = []byte{0x30, 0x00}

// CSR makes the PEM certificate request of an agent's key: an empty subject and
// the agent's SPIFFE ID as the only name.
func CSR(key *Key, agent agentid.ID, trustDomain string) ([]byte, error) {
	uri, err := agentURI(agent, trustDomain)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}}, key)
	if err != nil {
		return nil, fmt.Errorf("pki: making a certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: csrBlock, Bytes: der}), nil
}

// ParseCSR reads one PEM certificate request. It checks form only; whoever
// signs checks the content with [CheckCSR].
func ParseCSR(text []byte) (*x509.CertificateRequest, error) {
	der, err := oneBlock(text, csrBlock, limits.CSR)
	if err != nil {
		return nil, denial.New(denial.BadInput, "certificate request: %w", err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, denial.New(denial.BadInput, "certificate request does not parse: %w", err)
	}
	return csr, nil
}

// CheckCSR returns nil if the request is signed by the key in it, that key is
// ECDSA on P-256, and it asks for exactly the agent's one name. A request that
// asks for anything more (another name, a key usage, to be a CA) is refused with
// denial.BadInput and not trimmed: an issuer that copies or ignores what it did
// not expect is how a request becomes another identity.
func CheckCSR(csr *x509.CertificateRequest, agent agentid.ID, trustDomain string) error {
	if _, err := agentURI(agent, trustDomain); err != nil {
		return err
	}
	if err := checkRequest(csr); err != nil {
		return err
	}
	for _, e := range csr.Extensions {
		if !e.Id.Equal(oidSAN) {
			return denial.New(denial.BadInput, "certificate request asks for extension %s; only a SAN is allowed", e.Id)
		}
	}
	got, err := names{csr.URIs, csr.DNSNames, csr.EmailAddresses, csr.IPAddresses, csr.Extensions}.agent(trustDomain)
	if err != nil {
		return denial.New(denial.BadInput, "certificate request does not name one agent of this mesh: %w", err)
	}
	if got != agent {
		return denial.New(denial.BadInput, "certificate request names agent %q, not %q", got, agent)
	}
	return nil
}

// checkRequest is what holds for every request: a key of the right kind that signed
// it, and an empty subject.
func checkRequest(csr *x509.CertificateRequest) error {
	if csr == nil || len(csr.Raw) == 0 {
		return denial.New(denial.BadInput, "no certificate request")
	}
	if !isP256(csr.PublicKey) {
		return denial.New(denial.BadInput, "certificate request: key is not ECDSA on P-256")
	}
	if err := csr.CheckSignature(); err != nil {
		return denial.New(denial.BadInput, "certificate request is not signed by its own key")
	}
	if !bytes.Equal(csr.RawSubject, emptyName) {
		return denial.New(denial.BadInput, "certificate request: the subject must be empty (a common name is not an identity)")
	}
	return nil
}

// agentURI checks what a caller asks to have certified and returns its URI.
func agentURI(agent agentid.ID, trustDomain string) (*url.URL, error) {
	if agent.IsZero() {
		return nil, denial.New(denial.BadInput, "no agent named")
	}
	if agent.Reserved() {
		return nil, denial.New(denial.ReservedName, "agent %q is the mesh's own and gets no certificate", agent)
	}
	if _, err := agentid.ParseTrustDomain(trustDomain); err != nil {
		return nil, denial.New(denial.BadInput, "%w", err)
	}
	u, err := url.Parse(agent.SPIFFE(trustDomain))
	if err != nil {
		return nil, denial.New(denial.BadInput, "%w", err)
	}
	return u, nil
}
