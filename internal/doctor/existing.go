package doctor

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/conf"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/natsconf"
)

// calloutWait is the shortest authorization timeout with which a control plane has time
// to decide, in seconds.
const calloutWait = 10

// CheckConf looks at the configuration of a nats-server that was there before the mesh:
// whether it has taken in what the mesh needs, as that was written, and lets nobody
// around it. What others have in it is their own.
func CheckConf(m *meshdir.Mesh, file string, now time.Time) Group {
	g := Group{Name: file, Findings: []Finding{}}
	want, err := m.NATSConfig()
	if err != nil {
		g.Findings = append(g.Findings, Finding{Wrong, err.Error(), hint(err, "restore the file from a backup")})
		return g
	}
	if _, err := os.Stat(file); err != nil {
		g.Findings = append(g.Findings, Finding{Wrong, err.Error(), "name the file that nats-server is started with"})
		return g
	}
	o, err := options(file)
	if err != nil {
		g.Findings = append(g.Findings, Finding{Wrong, "nats-server would refuse it: " + oneLine(err), "nats-server -t -c " + file + " says more"})
		return g
	}
	p := &patient{Options: Options{Dir: m.Dir, Mesh: m}, dir: m.Dir, mesh: m, now: now}
	j := &judge{name: file}
	j.callout(o, want)
	j.accounts(m, file)
	j.tenants(o, want)
	j.client(o)
	j.certificates(o, p)
	j.cluster(o, p)
	j.others(o, p)
	if len(j.out) == 0 {
		j.out = append(j.out, Finding{Level: OK, What: file + " has what the mesh needs"})
	}
	g.Findings = j.out
	return g
}

const takeIn = "include the file, and restart that nats-server"

// accounts compares the mesh's accounts, as the file has them with all that it
// includes, with those that were written for it. Of two accounts of one name the
// server takes the later without a word.
func (j *judge) accounts(m *meshdir.Mesh, file string) {
	_, part, _ := m.Parts()
	if part == "" {
		j.say(true, Wrong, "sealmesh init --existing makes one", "this mesh was not made for servers that were there before")
		return
	}
	whole, err := conf.ParseFile(file)
	if err != nil {
		j.say(true, Wrong, takeIn, "it cannot be read: %v", err)
		return
	}
	ours, err := conf.ParseFile(part)
	if err != nil {
		j.say(true, Wrong, "restore "+part+" from a backup", "%v", err)
		return
	}
	have, _ := whole["accounts"].(map[string]any)
	for _, name := range []string{natsconf.Control, natsconf.Storage, natsconf.Mesh} {
		_, there := have[name]
		j.say(!there, Wrong, "accounts { include \""+filepath.Base(part)+"\" … }, relative to the file that includes it", "there is no account %s", name)
		j.say(there && !reflect.DeepEqual(have[name], ours[name]), Wrong, "include "+filepath.Base(part)+" and have no other account of that name behind it; where "+name+" is somebody else's account, the mesh needs a server of its own",
			"the account %s is not the one that was written for the mesh", name)
	}
}

// tenants looks at what the others on the server may not have.
func (j *judge) tenants(o *server.Options, want natsconf.Config) {
	ours := []string{natsconf.Control, natsconf.Storage, natsconf.Mesh}
	j.say(o.NoAuthUser != "", Wrong, "take it out", "no_auth_user lets in who shows nothing")
	j.say(o.Username != "" || o.Authorization != "", Wrong, "give each its user in an account", "there is a password or a token for everybody")
	for _, u := range o.Users {
		j.say(u.Account != nil && slices.Contains(ours, u.Account.Name), Wrong, "take the user out", "user %q is in an account of the mesh", u.Username)
		j.say(u.Account == nil || u.Account.Name == "$G", Warning, "give it an account", "user %q has no account: the callout decides about it, and refuses it", u.Username)
	}
	system := false
	for _, u := range o.Nkeys {
		name := ""
		if u.Account != nil {
			name = u.Account.Name
		}
		if u.Nkey == want.System {
			system = name == o.SystemAccount
			j.say(u.Permissions == nil, Wrong, "paste the user with its permissions", "the control plane's user in the system account may do everything there")
			continue
		}
		j.say(slices.Contains(ours, name) && u.Nkey != want.Service, Wrong, "take the user out", "user %s is in an account of the mesh", u.Nkey)
	}
	j.say(want.System != "" && !system, Wrong, "paste it among the users of that account", "the control plane's user is not in the system account, %q", o.SystemAccount)
	j.say(o.AuthTimeout < calloutWait, Warning, "timeout: 10 in the authorization block", "nats-server waits %v seconds for the control plane", o.AuthTimeout)
	j.say(o.MaxControlLine < controlLine, Warning, "max_control_line: 16384", "max_control_line is %d: agents with many chains are refused", o.MaxControlLine)
	j.say(o.MaxPayload > 0 && o.MaxPayload < natsconf.DefaultPayload, Wrong, "max_payload: 1MB", "max_payload is %d: answers of the callout do not fit", o.MaxPayload)
	j.say(!o.JetStream, Wrong, "a jetstream block", "JetStream is off")
}

// certificates looks at whom the client listener believes, and who believes it.
func (j *judge) certificates(o *server.Options, p *patient) {
	if o.TLSConfig == nil {
		return // said
	}
	cert, err := p.agentCertificate()
	if err == nil && o.TLSConfig.ClientCAs != nil {
		j.say(!believes(o.TLSConfig.ClientCAs, cert), Wrong, "add nats/ca.crt of the mesh to its ca_file", "the client listener does not believe agents' certificates")
	}
	if len(o.TLSConfig.Certificates) == 0 {
		return
	}
	own := o.TLSConfig.Certificates[0]
	leaf, err := x509.ParseCertificate(own.Certificate[0])
	if err != nil {
		j.say(true, Wrong, "use nats/server.crt of the mesh", "its certificate cannot be read: %v", err)
		return
	}
	own.Leaf = leaf
	roots, err := infraRoots(p.mesh)
	if err != nil {
		j.say(true, Warning, "run it where server/ is", "who believes its certificate was not looked at: %v", err)
		return
	}
	j.say(!believes(roots, &own), Wrong, "use nats/server.crt and server.key of the mesh, and have other clients trust server/ca.crt of it",
		"its certificate is not of the mesh's infra CA: agents do not believe the server")
}

func infraRoots(m *meshdir.Mesh) (*x509.CertPool, error) {
	certs, err := m.InfraRoots()
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool, nil
}
