package pki

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net"
	"net/url"

	"github.com/sealmesh/sealmesh/agentid"
)

var oidSAN = asn1.ObjectIdentifier{2, 5, 29, 17}

// tagURI is the GeneralName tag of a uniformResourceIdentifier (RFC 5280,
// section 4.2.1.6).
const tagURI = 6

// names is what crypto/x509 found in a subject alternative name extension.
type names struct {
	uris       []*url.URL
	dns, email []string
	ips        []net.IP
	extensions []pkix.Extension
}

// agent returns the one agent that n names, or an error that says which rule is
// broken. The raw extension is compared with the only encoding that it may
// have: the parsed form hides names of types that crypto/x509 skips (an
// otherName, a directory name) and a scheme in upper case.
func (n names) agent(trustDomain string) (agentid.ID, error) {
	switch {
	case len(n.dns) > 0:
		return agentid.ID{}, errors.New("it carries a DNS name")
	case len(n.ips) > 0:
		return agentid.ID{}, errors.New("it carries an IP address")
	case len(n.email) > 0:
		return agentid.ID{}, errors.New("it carries an email address")
	case len(n.uris) == 0:
		return agentid.ID{}, errors.New("it carries no URI SAN (a common name is not an identity)")
	case len(n.uris) > 1:
		return agentid.ID{}, errors.New("it carries more than one URI SAN")
	}
	id, err := agentid.FromSPIFFE(trustDomain, n.uris[0].String())
	if err != nil {
		return agentid.ID{}, err
	}
	if id.Reserved() {
		return agentid.ID{}, errors.New("it names a reserved agent")
	}
	want, err := sanDER(id.SPIFFE(trustDomain))
	if err != nil {
		return agentid.ID{}, err
	}
	found := 0
	for _, e := range n.extensions {
		if e.Id.Equal(oidSAN) {
			found++
			if !bytes.Equal(e.Value, want) {
				return agentid.ID{}, errors.New("its SAN holds more than the URI, or the URI in another spelling")
			}
		}
	}
	if found != 1 {
		return agentid.ID{}, errors.New("it must have exactly one SAN extension")
	}
	return id, nil
}

// sanDER encodes the SAN extension that holds this one URI.
func sanDER(uri string) ([]byte, error) {
	return asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: tagURI, Bytes: []byte(uri)}})
}
