package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/sealmesh/sealmesh/internal/natsconf"
)

// controlLine is the shortest max_control_line that many chains fit into, in bytes.
const controlLine = 16384

// options reads a nats-server configuration as nats-server does.
func options(file string) (*server.Options, error) {
	o := &server.Options{}
	err := o.ProcessConfigFile(file)
	var findings interface{ Errors() []error }
	if errors.As(err, &findings) && len(findings.Errors()) == 0 {
		return o, nil // warnings alone
	}
	return o, err
}

// serverConfs compares the configurations of the nats-servers with the mesh.
func serverConfs(_ context.Context, p *patient) (out []Finding) {
	if p.mesh == nil {
		return nil
	}
	if p.mesh.Config.NATS.Existing {
		return []Finding{{Warning, "the nats-servers have configurations of their own, which were not looked at", "sealmesh nats check FILE, where nats-server reads it"}}
	}
	want, err := p.mesh.NATSConfigs()
	if err != nil {
		return []Finding{{Wrong, err.Error(), hint(err, "restore the file from a backup")}}
	}
	for i, file := range p.mesh.ServerConfs() {
		out = append(out, p.serverConf(file, want[i])...)
	}
	return out
}

func (p *patient) serverConf(file string, want natsconf.Config) []Finding {
	name := p.rel(file)
	if _, err := os.Stat(file); err != nil {
		return []Finding{{Warning, name + " is not here and was not looked at", "run sealmesh doctor where nats-server reads it"}}
	}
	o, err := options(file)
	if err != nil {
		return []Finding{{Wrong, fmt.Sprintf("%s: nats-server would refuse it: %v", name, oneLine(err)), "nats-server -t -c " + file + " says more"}}
	}
	j := &judge{name: name}
	j.callout(o, want)
	j.users(o, want)
	j.client(o)
	j.cluster(o, p)
	j.others(o, p)
	if len(j.out) == 0 {
		j.out = append(j.out, Finding{Level: OK, What: name + " is as the mesh needs it"})
	}
	return j.out
}

// oneLine is an error that may have several.
func oneLine(err error) string { return strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ") }

// judge gathers what is wrong with one configuration.
type judge struct {
	name string
	out  []Finding
}

func (j *judge) say(bad bool, l Level, remedy, format string, args ...any) {
	if bad {
		j.out = append(j.out, Finding{l, j.name + ": " + fmt.Sprintf(format, args...), remedy})
	}
}

const asGenerated = "set it as sealmesh init writes it, and restart that nats-server"

func (j *judge) callout(o *server.Options, want natsconf.Config) {
	c := o.AuthCallout
	if c == nil {
		j.say(true, Wrong, asGenerated, "there is no auth_callout: nobody decides who is let in")
		return
	}
	j.say(c.Issuer != want.Issuer, Wrong, "sealmesh keys rotate issuer writes it; then restart that nats-server", "issuer is not the mesh's: nobody is let in")
	j.say(c.XKey == "", Wrong, asGenerated, "there is no xkey: what agents present crosses the servers in the clear")
	j.say(c.XKey != "" && c.XKey != want.XKey, Wrong, "sealmesh keys rotate xkey writes it; then restart that nats-server", "xkey is not the mesh's: nobody is let in")
	j.say(c.Account != natsconf.Control, Wrong, asGenerated, "the callout goes to account %q and not to %s", c.Account, natsconf.Control)
	j.say(!slices.Equal(c.AllowedAccounts, []string{natsconf.Mesh}), Wrong, asGenerated, "allowed_accounts is %q and not %s alone", c.AllowedAccounts, natsconf.Mesh)
	for _, key := range []string{want.Service, want.System} {
		j.say(key != "" && !slices.Contains(c.AuthUsers, key), Wrong, asGenerated, "the control plane's user %s is not among the auth_users: it cannot connect", key)
	}
}

func (j *judge) users(o *server.Options, want natsconf.Config) {
	j.say(o.NoAuthUser != "", Wrong, "take it out", "no_auth_user lets in who shows nothing")
	j.say(o.Username != "" || o.Authorization != "", Wrong, "take it out", "there is a password or a token for everybody")
	for _, u := range o.Users {
		j.say(u.Account == nil || u.Account.Name != natsconf.System, Wrong, "take the user out", "user %q has a password: who has it needs no key and no certificate of an agent", u.Username)
	}
	for _, u := range o.Nkeys {
		account := ""
		if u.Account != nil {
			account = u.Account.Name
		}
		j.say(account != natsconf.System && (account != natsconf.Control || u.Nkey != want.Service), Wrong, "take the user out",
			"user %s in account %q is not the mesh's: it could write what the control plane alone may", u.Nkey, account)
	}
	j.say(o.SystemAccount != natsconf.System, Wrong, asGenerated, "system_account is %q and not %s", o.SystemAccount, natsconf.System)
	j.say(o.MaxControlLine < controlLine, Warning, "max_control_line: 16384", "max_control_line is %d: agents with many chains are refused", o.MaxControlLine)
}

func (j *judge) client(o *server.Options) {
	j.tls("client listener", o.TLSConfig)
	j.say(o.TLSMap, Wrong, "take verify_and_map out", "verify_and_map takes a certificate for a user")
	j.say(o.AllowNonTLS, Wrong, "take allow_non_tls out", "allow_non_tls lets clients in without TLS")
}

// tls judges one listener.
func (j *judge) tls(of string, c *tls.Config) bool {
	if c == nil {
		j.say(true, Wrong, asGenerated, "the %s has no TLS", of)
		return false
	}
	j.say(c.ClientAuth != tls.RequireAndVerifyClientCert, Wrong, "verify: true", "the %s asks for no certificate (verify)", of)
	j.say(c.MinVersion < tls.VersionTLS13, Warning, `min_version: "1.3"`, "the %s takes TLS older than 1.3 (min_version)", of)
	return true
}

// closed judges a listener that only servers may come to.
func (j *judge) closed(of string, c *tls.Config, user string, p *patient) {
	if !j.tls(of, c) {
		return
	}
	j.say(user == "", Warning, "set a user and a password there, as cluster-secret.conf has for routes", "the %s has no authorization: the certificate is its only lock", of)
	cert, err := p.agentCertificate()
	if err != nil {
		j.say(true, Warning, "sealmesh agent add, or run it where agents/ is", "whom the %s believes was not looked at: %v", of, err)
		return
	}
	for _, pool := range []*x509.CertPool{c.ClientCAs, c.RootCAs} {
		if pool != nil && believes(pool, cert) {
			j.say(true, Wrong, "its ca_file must be the infra CA alone; then restart that nats-server", "the %s believes the agent CA: any agent can join as a server and own the bus", of)
			return
		}
	}
}

func (j *judge) cluster(o *server.Options, p *patient) {
	if o.Cluster.Port == 0 {
		return
	}
	user := o.Cluster.Username
	j.closed("route listener", o.Cluster.TLSConfig, user, p)
}

func (j *judge) others(o *server.Options, p *patient) {
	if o.Gateway.Port != 0 {
		j.closed("gateway listener", o.Gateway.TLSConfig, o.Gateway.Username, p)
	}
	if o.LeafNode.Port != 0 {
		user := o.LeafNode.Username + o.LeafNode.Nkey
		if len(o.LeafNode.Users) > 0 {
			user = "several"
		}
		j.closed("leafnode listener", o.LeafNode.TLSConfig, user, p)
	}
	if o.Websocket.Port != 0 {
		j.say(o.Websocket.NoTLS, Wrong, "take no_tls out", "the websocket listener has no TLS")
		j.say(o.Websocket.NoAuthUser != "", Wrong, "take it out", "no_auth_user of the websocket listener lets in who shows nothing")
	}
	j.say(o.MQTT.Port != 0, Warning, "take the mqtt block out", "there is an MQTT listener, which agents cannot use: it sends no nonce")
	if o.HTTPPort != 0 || o.HTTPSPort != 0 {
		l, why := exposed(o.HTTPHost)
		j.say(l != OK, l, "http: 127.0.0.1:8222, or take it out", "the monitoring page, which asks nobody who they are, %s", why)
	}
}

// exposed says who reaches a listener.
func exposed(host string) (Level, string) {
	ip := net.ParseIP(host)
	switch {
	case host == "localhost", ip != nil && ip.IsLoopback():
		return OK, ""
	case ip != nil && (ip.IsPrivate() || ip.IsLinkLocalUnicast()):
		return Warning, "is open to the network of " + host
	case ip == nil && host != "":
		return Warning, "is open to whoever reaches " + host
	}
	return Wrong, "is open on every interface or a public one"
}

// believes reports whether a pool vouches for a certificate, whatever the time is.
func believes(pool *x509.CertPool, cert *tls.Certificate) bool {
	leaf := cert.Leaf
	between := x509.NewCertPool()
	for _, raw := range cert.Certificate[1:] {
		if c, err := x509.ParseCertificate(raw); err == nil {
			between.AddCert(c)
		}
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		CurrentTime: leaf.NotAfter.Add(-time.Second),
	})
	return err == nil
}
