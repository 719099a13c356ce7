package main

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/pki"
)

// certsDoc is what certificates say.
type certsDoc struct {
	Schema       string    `json:"schema"` // sealmesh.certificates/v1
	Certificates []certDoc `json:"certificates"`
}

const certsSchema = "sealmesh.certificates/v1"

// certDoc is one certificate.
type certDoc struct {
	File         string     `json:"file,omitempty"`
	Kind         string     `json:"kind"`             // agent, server, intermediate or root
	Subject      string     `json:"subject"`          // its name; the SPIFFE ID where it has one
	SPIFFE       string     `json:"spiffe,omitempty"` //
	Hosts        []string   `json:"hosts,omitempty"`
	Serial       string     `json:"serial"` // hexadecimal, as the registry has it
	Issuer       string     `json:"issuer"`
	NotBefore    time.Time  `json:"not_before"`
	NotAfter     time.Time  `json:"not_after"`
	KeyAlgorithm string     `json:"key_algorithm"`
	SHA256       string     `json:"sha256"`               // of the certificate, hexadecimal
	RenewFrom    *time.Time `json:"renew_from,omitempty"` // an agent's: the earliest
	RenewAt      *time.Time `json:"renew_at,omitempty"`   // an agent's: the latest
	Chain        []certDoc  `json:"chain,omitempty"`
}

// describe says what a chain, leaf first, says.
func describe(file string, chain []*x509.Certificate) certDoc {
	c := chain[0]
	d := certDoc{
		File: file, Kind: kindOfCert(c), Subject: c.Subject.CommonName, Serial: c.SerialNumber.Text(16), Issuer: c.Issuer.CommonName,
		NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(), KeyAlgorithm: keyAlgorithm(c), Hosts: slices.Clone(c.DNSNames),
	}
	sum := sha256.Sum256(c.Raw)
	d.SHA256 = hex.EncodeToString(sum[:])
	for _, ip := range c.IPAddresses {
		d.Hosts = append(d.Hosts, ip.String())
	}
	if len(c.URIs) > 0 {
		d.SPIFFE = c.URIs[0].String()
		d.Subject = d.SPIFFE
	}
	if d.Kind == "agent" {
		_, half, spread := agentdir.Life(c)
		from, at := half.Add(-spread).UTC(), half.UTC()
		d.RenewFrom, d.RenewAt = &from, &at
	}
	for _, next := range chain[1:] {
		n := describe("", []*x509.Certificate{next})
		d.Chain = append(d.Chain, n)
	}
	return d
}

func kindOfCert(c *x509.Certificate) string {
	switch {
	case c.IsCA && c.CheckSignatureFrom(c) == nil:
		return "root"
	case c.IsCA:
		return "intermediate"
	case slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth):
		return "server"
	}
	return "agent"
}

func keyAlgorithm(c *x509.Certificate) string {
	switch k := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + k.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", k.N.BitLen())
	}
	return c.PublicKeyAlgorithm.String()
}

func newCert(a *app) *cobra.Command {
	return group("cert", "Show certificates, and renew an agent's now", newCertShow(a), newCertRenew(a), newCertServer(a))
}

func newCertShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show [DIR|ID|FILE]",
		Short: "Show what certificates say, and when they are renewed",
		Long: `Show what certificates say: whose they are, who signed them, from when until when
they are valid, and when an agent's is renewed by itself.

An ID, or the directory of an agent, is that agent's certificate; a file is what
is in it; a mesh directory is everything in it: roots, intermediates, servers and
agents. Without an argument it is the agent that --as names, else the mesh
directory. It reads files and asks nobody.`,
		Args: takes(0, 1, "at most one DIR, ID or FILE"),
		RunE: func(c *cobra.Command, args []string) error {
			what := a.mesh
			if a.as != "" {
				what = a.as
			}
			if len(args) > 0 {
				what = args[0]
			}
			list, err := a.certificates(what)
			if err != nil {
				return err
			}
			return a.showCerts(list)
		},
	}
}

// certificates reads what an argument names.
func (a *app) certificates(what string) ([]certDoc, error) {
	info, err := os.Stat(what)
	switch {
	case errors.Is(err, fs.ErrNotExist) && what == a.mesh:
		return nil, &hinted{fmt.Errorf("there is no mesh directory %s", what), "--mesh DIR names another; name an agent, a directory or a file"}
	case err == nil && !info.IsDir():
		return certsOf(what)
	case err == nil:
		if _, err := os.Stat(filepath.Join(what, meshdir.ConfigFile)); err == nil {
			return certsBelow(what)
		}
		if d, err := agentdir.Open(what); err == nil {
			return certsOf(d.File(agentdir.TLSCertFile))
		}
		if strings.ContainsRune(what, '/') {
			return nil, &hinted{fmt.Errorf("%s is the directory of no agent and of no mesh", what), "name a directory that has agent.json or sealmesh.yaml"}
		}
	case strings.ContainsRune(what, '/'):
		return nil, err
	}
	d, err := agentdir.Find(what, a.mesh)
	if err != nil {
		return nil, err
	}
	return certsOf(d.File(agentdir.TLSCertFile))
}

// certsOf reads one file: a chain, or roots and chains one after the other.
func certsOf(path string) ([]certDoc, error) {
	text, err := pki.ReadFile(path)
	if err != nil {
		return nil, err
	}
	certs, err := pki.ParseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var out []certDoc
	for len(certs) > 0 {
		n := 1
		for n < len(certs) && certs[n-1].CheckSignatureFrom(certs[n]) == nil && !certs[n-1].Equal(certs[n]) {
			n++
		}
		out = append(out, describe(path, certs[:n]))
		certs = certs[n:]
	}
	return out, nil
}

// certsBelow reads the certificates of a mesh directory, each once.
func certsBelow(dir string) ([]certDoc, error) {
	var out []certDoc
	seen := map[string]bool{}
	for _, pattern := range []string{"root/*.crt", "server/*.crt", "nats/*.crt", "nats/*/*.crt", "agents/*/" + agentdir.TLSCertFile} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			list, err := certsOf(name)
			if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
				continue // a part of the directory that is not this user's
			}
			if err != nil {
				return nil, err
			}
			for _, d := range list {
				if !seen[d.SHA256] {
					seen[d.SHA256] = true
					out = append(out, d)
				}
			}
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no certificate can be read below %s", dir)
	}
	return out, nil
}

func (a *app) showCerts(list []certDoc) error {
	return a.show(certsDoc{certsSchema, list}, func(w io.Writer) {
		if len(list) == 1 {
			writeCert(w, list[0])
			return
		}
		rows := [][]string{{"FILE", "KIND", "NAME", "SERIAL", "SIGNED BY", "UNTIL"}}
		for _, d := range list {
			rows = append(rows, []string{clean(d.File), d.Kind, clean(d.Subject), d.Serial, clean(d.Issuer), when(&d.NotAfter)})
		}
		table(w, rows...)
	})
}

func writeCert(w io.Writer, d certDoc) {
	rows := [][]string{
		{"subject", clean(d.Subject)},
		{"serial", d.Serial},
		{"signed by", clean(d.Issuer)},
		{"not before", when(&d.NotBefore)},
		{"not after", when(&d.NotAfter) + left(d.NotAfter)},
	}
	if d.RenewAt != nil {
		rows = append(rows, []string{"renewed", "from " + when(d.RenewFrom) + " on, at the latest " + when(d.RenewAt)})
	}
	if len(d.Hosts) > 0 {
		rows = append(rows, []string{"hosts", listed(d.Hosts)})
	}
	rows = append(rows, []string{"key", clean(d.KeyAlgorithm)}, []string{"sha256", d.SHA256})
	if d.File != "" {
		rows = append(rows, []string{"file", clean(d.File)})
	}
	for _, c := range d.Chain {
		rows = append(rows, []string{"chain", fmt.Sprintf("%s, %s, serial %s, until %s", clean(c.Subject), c.Kind, c.Serial, when(&c.NotAfter))})
	}
	table(w, rows...)
}

// left says so where a certificate has ended.
func left(end time.Time) string {
	if time.Now().Before(end) {
		return ""
	}
	return " (ended)"
}
