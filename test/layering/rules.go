package layering

import (
	"fmt"
	"slices"
	"strings"
)

// Module is the path of the module that the rules are about.
const Module = "github.com/sealmesh/sealmesh"

// Tier is how far up a package stands. Imports point down only: to a lower
// tier, never to the same.
type Tier int

// The tiers of the architecture, with the steps that lie between them.
const (
	Leaf     Tier = iota * 10 // 0: agentid, denial, limits
	Subjects                  // internal/subject, which names agents
	Document                  // internal/jws
	Format                    // 1: pki, capability, envelope
	Service                   // 2: registry, audit, heartbeat, authcallout
	Support                   // what the top of tier 2 and all of tier 3 share
	Assembly                  // what is put together from that: the mesh directory, test servers
	Surface                   // 3: meshclient, internal/controlplane
	Whole                     // a mesh in one process, out of both
	Harness                   // meshclient/meshtest on top of that
	Program                   // 4: cmd, examples, test
)

// tiers names the tier of each folder and of all below it that are not named
// themselves.
var tiers = map[string]Tier{
	"agentid":               Leaf,
	"denial":                Leaf,
	"internal/limits":       Leaf,
	"internal/nearest":      Leaf,
	"internal/streams":      Leaf,
	"internal/subject":      Subjects,
	"internal/jws":          Document,
	"pki":                   Format,
	"pki/vault":             Format,
	"capability":            Format,
	"envelope":              Format,
	"internal/seal":         Format,
	"internal/floors":       Format,
	"registry":              Service,
	"audit":                 Service,
	"heartbeat":             Service,
	"authcallout":           Service,
	"internal/agentdir":     Support,
	"internal/gate":         Support,
	"internal/lint":         Support,
	"internal/natsconf":     Support,
	"internal/natsserver":   Support,
	"internal/wire":         Support,
	"internal/bare":         Assembly,
	"internal/enrol":        Assembly,
	"internal/epochlog":     Support,
	"internal/meshdir":      Assembly,
	"internal/meshfile":     Assembly,
	"internal/natstest":     Assembly,
	"meshclient":            Surface,
	"internal/controlplane": Surface,
	"internal/devmesh":      Whole,
	"internal/bench":        Harness,
	"internal/demo":         Harness,
	"internal/doctor":       Whole,
	"meshclient/meshtest":   Harness,
	"cmd":                   Program,
	"examples":              Program,
	"test":                  Program,
}

// siblings are the imports between two packages of one tier that were decided
// upon: importer, then imported.
var siblings = map[[2]string]string{
	{"pki/vault", "pki"}: "an issuer judges what it hands out by the rules of its interface",
}

// Package is one package as the rules see it. Paths inside the module are
// relative to it.
type Package struct {
	Path    string
	Imports []string // direct ones of the code that is linked, not of its tests
	Deps    []string // all that is linked with it
}

// rule forbids packages in From (a folder, or * for all) to have an import in
// Forbid (a path and all below it).
type rule struct {
	from   []string
	but    []string // folders below from that are exempt
	forbid []string
	direct bool // only what is imported directly counts
	why    string
}

const (
	foreign    = "everything outside the standard library and the module"
	natsClient = "github.com/nats-io/nats.go"
	natsServer = "github.com/nats-io/nats-server"
	zerolog    = "github.com/rs/zerolog"

	vaultClient = "github.com/hashicorp/vault/api"
)

var rules = []rule{
	{from: []string{"agentid", "denial", "internal/limits", "internal/subject"}, forbid: []string{foreign},
		why: "the vocabulary rests on the standard library alone, so that everything may rest on it"},
	{from: []string{"internal/jws"}, forbid: []string{foreign}, direct: true,
		why: "the signed document needs keys and nothing else; nkeys is the one exception"},
	{from: []string{"internal/jws", "pki", "capability", "envelope", "internal/seal", "heartbeat"}, forbid: []string{natsClient},
		why: "formats and judgements hold no connection, so that they are tested without one and used by any transport"},
	{from: []string{"capability", "envelope", "internal/seal", "pki"}, forbid: []string{zerolog},
		why: "a verifier returns its verdict; who logs it is the caller's business"},
	{from: []string{"envelope"}, forbid: []string{"capability"},
		why: "who signed a message and what it may do are two questions with two answers"},
	{from: []string{"capability"}, forbid: []string{"envelope"},
		why: "a chain is verified without the message that names it"},
	{from: []string{"internal/seal"}, forbid: []string{"internal/jws", "pki"},
		why: "what is sealed is opened by one key; who holds it, and who signed, others found out before"},
	{from: []string{"registry", "audit"}, forbid: []string{"authcallout", "heartbeat", "meshclient"},
		why: "what is remembered does not depend on who asks"},
	{from: []string{"heartbeat"}, forbid: []string{"registry", "authcallout", "meshclient"},
		why: "the monitor declares the small interface that it needs, so that it cannot change more than that"},
	{from: []string{"authcallout"}, forbid: []string{"registry", "heartbeat", "meshclient"},
		why: "the door declares the small interface that it needs, so that it cannot change more than that"},
	{from: []string{"authcallout", "registry", "audit", "heartbeat", "internal/gate", "internal/wire", "internal/agentdir", "internal/controlplane"}, forbid: []string{natsServer},
		why: "the control plane works against any nats-server and does not carry one"},
	{from: []string{"meshclient"}, but: []string{"meshclient/meshtest"}, forbid: []string{natsServer},
		why: "an agent author must not link a server into every agent"},
	{from: []string{"meshclient"}, but: []string{"meshclient/meshtest"}, forbid: []string{"authcallout", "internal/controlplane"},
		why: "an agent holds no code that admits agents"},
	{from: []string{"meshclient", "pki"}, but: []string{"meshclient/meshtest", "pki/vault"}, forbid: []string{vaultClient},
		why: "the control plane alone asks Vault; nobody else links its client"},
	{from: []string{"internal/controlplane"}, forbid: []string{"meshclient"},
		why: "the control plane does not depend on its own client"},
	{from: []string{"internal/lint"}, forbid: []string{"internal/subject", "internal/natsconf"}, direct: true,
		why: "a proof does not spell subjects with the functions that it is to prove right"},
	{from: []string{"examples"}, forbid: []string{"internal"}, direct: true,
		why: "an example shows what anybody outside the module can write"},
	{from: []string{"*"}, forbid: []string{"testing"}, but: []string{"internal/natstest", "meshclient/meshtest", "test"},
		why: "test code does not belong into a program"},
}

// allowed are exceptions to the rules: folder, then import.
var allowed = map[[2]string]string{
	{"internal/jws", "github.com/nats-io/nkeys"}: "keys are nkeys",
}

// within reports whether path is folder or lies below it.
func within(path, folder string) bool {
	return folder == "*" || path == folder || strings.HasPrefix(path, folder+"/")
}

// isForeign reports whether an import comes from another module: its first
// element is a host name.
func isForeign(imp string) bool {
	first, _, _ := strings.Cut(imp, "/")
	return strings.Contains(first, ".")
}

// tierOf returns the tier of the longest folder that path lies in.
func tierOf(path string) (tier Tier, folder string, ok bool) {
	for f, t := range tiers {
		if within(path, f) && len(f) > len(folder) {
			tier, folder, ok = t, f, true
		}
	}
	return tier, folder, ok
}

// Check returns every breach of the tiers and rules, each in one line.
func Check(pkgs []Package) []string {
	own := make(map[string]bool)
	for _, p := range pkgs {
		own[p.Path] = true
	}
	var out []string
	for _, p := range pkgs {
		out = append(out, checkTiers(p, own)...)
		out = append(out, checkRules(p)...)
	}
	slices.Sort(out)
	return out
}

func checkTiers(p Package, own map[string]bool) (out []string) {
	tier, folder, ok := tierOf(p.Path)
	if !ok {
		return []string{fmt.Sprintf("%s has no tier: say in test/layering/rules.go where it stands", p.Path)}
	}
	for _, imp := range p.Imports {
		if !own[imp] {
			continue
		}
		below, other, ok := tierOf(imp)
		switch {
		case !ok || below < tier || tier == Program:
		case folder == other: // one folder is one thing
		case siblings[[2]string{folder, other}] != "":
		case below == tier:
			out = append(out, fmt.Sprintf("%s imports %s: packages of one tier do not import each other", p.Path, imp))
		default:
			out = append(out, fmt.Sprintf("%s imports %s: imports point down only", p.Path, imp))
		}
	}
	return out
}

func checkRules(p Package) (out []string) {
	for _, r := range rules {
		if !r.concerns(p.Path) {
			continue
		}
		imports := p.Deps
		if r.direct {
			imports = p.Imports
		}
		// One line is enough where a whole module came along.
		if i := slices.IndexFunc(imports, func(imp string) bool { return r.forbids(p.Path, imp) }); i >= 0 {
			out = append(out, fmt.Sprintf("%s must not import %s: %s", p.Path, imports[i], r.why))
		}
	}
	return out
}

func (r rule) concerns(path string) bool {
	in := func(folder string) bool { return within(path, folder) }
	return slices.ContainsFunc(r.from, in) && !slices.ContainsFunc(r.but, in)
}

func (r rule) forbids(path, imp string) bool {
	if !slices.ContainsFunc(r.forbid, func(f string) bool { return within(imp, f) || f == foreign && isForeign(imp) }) {
		return false
	}
	for exception := range allowed {
		if within(path, exception[0]) && within(imp, exception[1]) {
			return false
		}
	}
	return true
}

// Clockless reports whether the package must be handed the time: everything
// below tier 3 is.
func Clockless(path string) bool {
	tier, _, ok := tierOf(path)
	return ok && tier <= Service
}
