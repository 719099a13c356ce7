package enrol

import (
	"fmt"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/pki"
)

// checkTrust holds a trust document, where the mesh has one, against what came with it.
func (h *host) checkTrust(r wire.EnrollResponse) error {
	if r.Trust == "" {
		return nil
	}
	_, err := capability.VerifyTrust(r.Trust, r.Roots, h.trustDomain)
	return err
}

// writeTrust has the new instance begin with the trust document that is in force. With
// none it would take the first that a broker serves it, and that could be one of before
// a root leaked.
func (h *host) writeTrust(r wire.EnrollResponse) error {
	if r.Trust == "" {
		return nil
	}
	doc, err := capability.VerifyTrust(r.Trust, r.Roots, h.trustDomain)
	if err != nil {
		return err
	}
	infra, err := doc.InfraRoots()
	if err != nil {
		return err
	}
	d := &agentdir.Dir{Path: h.dir}
	known, err := d.Floors()
	if err != nil {
		return err
	}
	if _, err := d.TakeTrust(known, doc.Version, pki.EncodeCertificates(infra...)); err != nil {
		return fmt.Errorf("enrol: %w", err)
	}
	return nil
}

// knows reports whether a directory trusts servers of the root that a join token pins.
// It need not be the one that it was enrolled with: roots are replaced.
func knows(d *agentdir.Dir, pin string) bool {
	text, err := pki.ReadFile(d.File(agentdir.CAFile))
	if err != nil {
		return false
	}
	roots, err := pki.ParseCertificates(text)
	if err != nil {
		return false
	}
	for _, c := range roots {
		if pki.RootHash(c) == pin {
			return true
		}
	}
	return false
}
