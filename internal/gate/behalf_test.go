package gate_test

import (
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/denial"
)

// Everybody on whose behalf a call is made must hold the scope, wherever he is
// named.
func TestOnBehalfOfMany(t *testing.T) {
	w := newWorld(t)
	a, poor := w.enrol("writer", "read:logs"), w.enrol("poor", "write:logs")
	cut := w.enrol("cut", "read:logs")
	one, two, three := w.enrol("one", "read:logs"), w.enrol("two", "read:logs"), w.enrol("three", "read:logs")
	cut.change(suspend)
	for name, tt := range map[string]struct {
		chains []string
		reason denial.Reason
	}{
		"all may":               {[]string{one.chain, two.chain, three.chain}, ""},
		"the first may not":     {[]string{poor.chain, two.chain, three.chain}, denial.ScopeNotHeld},
		"one between may not":   {[]string{one.chain, poor.chain, three.chain}, denial.ScopeNotHeld},
		"the last may not":      {[]string{one.chain, two.chain, poor.chain}, denial.ScopeNotHeld},
		"one between is cut":    {[]string{one.chain, cut.chain, three.chain}, denial.DelegatorCut},
		"the sender, named too": {[]string{one.chain, a.chain}, ""},
	} {
		at := a.call()
		at.fields.OnBehalf = strings.Join(tt.chains, ".")
		t.Run(name, func(t *testing.T) { wantReason(t, at.to(w.node), tt.reason) })
	}
}
