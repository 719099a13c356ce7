package authcallout_test

import (
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/denial"
)

// While issuer and xkey are replaced, each server is answered with those that it
// asked by; what is neither the old nor the new one gets no signature.
func TestTwoIssuersAndXKeys(t *testing.T) {
	d := newDoor(t)
	oldIssuer, oldXKey := d.issuer, d.xkey
	newIssuer, newXKey := must(t)(nkeys.CreateAccount()), must(t)(nkeys.CreateCurveKeys())
	d.cfg.Issuers, d.cfg.XKeys = keys(newIssuer, oldIssuer), keys(newXKey, oldXKey)
	d.open(t)
	for name, c := range map[string]struct{ issuer, xkey nkeys.KeyPair }{
		"old keys": {oldIssuer, oldXKey}, "new keys": {newIssuer, newXKey}, "issuer alone is new": {newIssuer, oldXKey},
	} {
		d.issuer, d.xkey = c.issuer, c.xkey
		// read opens the answer with d.xkey and checks its issuer.
		resp, _ := d.ask(t, d.request(t))
		if resp == nil || resp.Error != "" || resp.Issuer != public(t, c.issuer) {
			t.Errorf("%s: got %+v, want an answer of the issuer that was asked for", name, resp)
		}
	}
	d.issuer, d.xkey = must(t)(nkeys.CreateAccount()), newXKey
	if resp, dec := d.ask(t, d.request(t)); resp != nil || dec.Reason != denial.BadRequest {
		t.Errorf("foreign issuer: got %+v, %s", resp, dec.Reason)
	}
	d.issuer, d.xkey = newIssuer, must(t)(nkeys.CreateCurveKeys())
	if resp, dec := d.ask(t, d.request(t)); resp != nil || dec.Reason != denial.BadRequest {
		t.Errorf("foreign xkey: got %+v, %s", resp, dec.Reason)
	}
}
