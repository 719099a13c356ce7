package pki_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/pki"
)

// An agent asks for a certificate. A request in another agent's name is refused,
// its own is signed, and the certificate proves the agent to whoever knows the
// agent CA, but not in another mesh.
func Example() {
	now := time.Date(2041, 3, 5, 12, 0, 0, 0, time.UTC)
	root, err := pki.NewCA(pki.Agent, "mesh.example", now)
	if err != nil {
		log.Fatal(err)
	}
	ca, err := root.Intermediate(now)
	if err != nil {
		log.Fatal(err)
	}

	key, err := pki.NewTLSKey()
	if err != nil {
		log.Fatal(err)
	}
	reader := agentid.Require("reader")
	text, err := pki.CSR(key, reader, "mesh.example")
	if err != nil {
		log.Fatal(err)
	}
	csr, err := pki.ParseCSR(text)
	if err != nil {
		log.Fatal(err)
	}

	_, err = ca.SignAgent(context.Background(), csr, agentid.Require("admin"), 0, now)
	fmt.Println(err)

	chain, err := ca.SignAgent(context.Background(), csr, reader, 0, now)
	if err != nil {
		log.Fatal(err)
	}
	certs, err := pki.ParseCertificates(chain)
	if err != nil {
		log.Fatal(err)
	}
	roots, err := pki.ParsePool(ca.Roots())
	if err != nil {
		log.Fatal(err)
	}
	got, err := pki.VerifyAgent(certs, roots, "mesh.example", now)
	fmt.Println(got.ID, got.NotAfter.Format(time.RFC3339), err)

	_, err = pki.VerifyAgent(certs, roots, "other.example", now)
	fmt.Println(denial.Of(err))
	fmt.Println(key)

	// Output:
	// bad-input: certificate request names agent "reader", not "admin"
	// reader 2041-03-06T12:00:00Z <nil>
	// bad-certificate
	// pki.Key(redacted)
}
