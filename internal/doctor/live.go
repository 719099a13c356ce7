package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
)

const startControl = "start sealmesh server, or sealmesh up"

// slowAdmission is how long an admission takes after which nats-server gives up on
// clients.
const slowAdmission = 2 * time.Second

// admissionWait is how long an agent is waited for to be let in: nats-server waits ten
// seconds for its callout.
const admissionWait = 14 * time.Second

// anywhere reports whether any nats-server takes connections. The client would go on
// trying for as long as it may.
func (p *patient) anywhere(ctx context.Context) bool {
	for _, addr := range p.addresses() {
		if conn, _, err := greeted(ctx, addr, dialWait); err == nil {
			conn.Close() //nolint:errcheck // nothing was said
			return true
		}
	}
	return false
}

// health asks the control plane's address as a load balancer does.
func health(ctx context.Context, p *patient) []Finding {
	at := p.mesh.Config.Control.URL
	u, err := url.Parse(at)
	if err != nil {
		return []Finding{{Wrong, "control.url is no URL", "mend it in sealmesh.yaml"}}
	}
	source, err := p.mesh.ControlSource()
	if err != nil {
		return nil // listeners says so
	}
	client := &http.Client{Timeout: dialWait, Transport: &http.Transport{TLSClientConfig: source.ClientTLS(u.Hostname()), DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(at, "/")+wire.PathHealth, nil)
	if err != nil {
		return []Finding{{Wrong, err.Error(), "mend control.url in sealmesh.yaml"}}
	}
	res, err := client.Do(req)
	if err != nil {
		return []Finding{{Wrong, fmt.Sprintf("no control plane answers at %s: %v", at, err), startControl + "; or mend control.url, the network or the firewall"}}
	}
	defer res.Body.Close()                                //nolint:errcheck // it was read
	io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) //nolint:errcheck // the status says it
	if res.StatusCode != http.StatusOK {
		return []Finding{{Wrong, fmt.Sprintf("the control plane at %s says %s", at, res.Status), "it has lost nats-server; its log says why"}}
	}
	return []Finding{{Level: OK, What: "the control plane answers at " + at}}
}

// operator comes in as the operator's agent, as every agent does, and asks: by the
// callout, a signed call there and back, and the feed.
func operator(ctx context.Context, p *patient) (out []Finding) {
	if !p.anywhere(ctx) {
		return []Finding{{Wrong, "no agent can come in: no nats-server can be reached", startServer}}
	}
	began := time.Now()
	in, cancel := context.WithTimeout(ctx, admissionWait)
	defer cancel()
	m, err := meshclient.Connect(in, meshclient.As(p.operatorDir()), meshclient.MeshDir(p.mesh.Dir), meshclient.Log(zerolog.Nop()))
	took := time.Since(began)
	var denied *meshclient.Denied
	switch {
	case errors.As(err, &denied):
		return []Finding{{Wrong, fmt.Sprintf("the operator's agent is not let in: %v", err), hint(err, "sealmesh why "+denied.ID+"; sealmesh emergency admin ID makes another administrator")}}
	case errors.Is(err, meshclient.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return []Finding{{Wrong, fmt.Sprintf("no agent can come in: no callout is answered (%v)", err), startControl}}
	case err != nil:
		return []Finding{{Wrong, fmt.Sprintf("the mesh was not asked: %v", err), hint(err, "name an agent that may administer it with --as")}}
	}
	defer m.Close() //nolint:errcheck // nothing is under way
	if took > slowAdmission {
		out = append(out, Finding{Warning, fmt.Sprintf("letting an agent in took %s; nats-server gives up on clients after two seconds", took.Round(time.Millisecond)), "give the control plane more time of the machine, or run a second one"})
	}
	var s wire.MeshStatus
	asked := p.Now()
	if err := administer(ctx, m, wire.OpStatus, &s); err != nil {
		return append(out, Finding{Wrong, fmt.Sprintf("a call to the control plane failed: %v", err), hint(err, "its log says why")})
	}
	back := p.Now()
	round := back.Sub(asked)
	out = append(out, Finding{Level: OK, What: fmt.Sprintf("an agent is let in within %s, and a call is answered within %s", took.Round(time.Millisecond), round.Round(time.Millisecond))})
	out = append(out, p.judgeStatus(s, asked, round)...)
	if silent := time.Duration(m.Health().FeedSilentMS) * time.Millisecond; silent > 15*time.Second {
		out = append(out, Finding{Wrong, fmt.Sprintf("the feed reached this agent %s ago last", silent.Round(time.Second)), "the control plane's log says why it does not tick"})
	}
	return append(out, grants(ctx, m)...)
}

// judgeStatus turns what the control planes say into findings.
func (p *patient) judgeStatus(s wire.MeshStatus, asked time.Time, round time.Duration) (out []Finding) {
	for _, t := range s.Troubles() {
		remedy := t.Remedy
		if t.Command != "" {
			remedy = "sealmesh " + t.Command
		}
		if remedy == "" {
			remedy = "sealmesh status shows more"
		}
		out = append(out, Finding{Wrong, t.What, remedy})
	}
	var names, versions []string
	for _, c := range s.ControlPlanes {
		names, versions = append(names, c.Replica), append(versions, c.Version)
		// It took its time before the answer went out, nobody knows when.
		if f, ok := skewed("control plane "+c.Replica, c.Time.Sub(asked.Add(round/2)), round/2); ok {
			out = append(out, f)
		}
	}
	slices.Sort(versions)
	if len(slices.Compact(versions)) > 1 {
		out = append(out, Finding{Warning, "the control planes are of different versions: " + strings.Join(slices.Compact(versions), ", "), "finish the upgrade"})
	}
	if len(s.ControlPlanes) == 1 && len(p.mesh.Config.NATS.Servers) > 1 {
		out = append(out, Finding{Warning, "there is one control plane: while it is away nobody is let in and nobody can be cut", "run a second one"})
	}
	line := fmt.Sprintf("%s answered (%s), last tick of the feed %s ago", count(len(names), "control plane"), strings.Join(names, ", "), (time.Duration(s.FeedLagMS) * time.Millisecond).Round(time.Millisecond))
	if len(s.Expires) > 0 {
		e := s.Expires[0]
		line += fmt.Sprintf("; %s %s ends next, %s", e.What, e.Name, e.NotAfter.UTC().Format(time.RFC3339))
	}
	return append(out, Finding{Level: OK, What: line})
}

// grants has the control plane prove who reaches what.
func grants(ctx context.Context, m *meshclient.Mesh) (out []Finding) {
	var r wire.LintReport
	if err := administer(ctx, m, wire.OpLint, &r); err != nil {
		return []Finding{{Wrong, fmt.Sprintf("the grants were not proven: %v", err), hint(err, "sealmesh lint")}}
	}
	for _, f := range r.Findings {
		level := Warning
		switch f.Severity {
		case "info":
			continue
		case "error":
			level = Wrong
		}
		what := f.Code + ": "
		if f.Agent != "" {
			what += f.Agent + ": "
		}
		remedy := f.Remedy
		if remedy == "" {
			remedy = "sealmesh lint"
		}
		out = append(out, Finding{level, what + f.Why, remedy})
	}
	if r.Omitted > 0 {
		out = append(out, Finding{Warning, fmt.Sprintf("%d more findings about grants", r.Omitted), "sealmesh lint"})
	}
	if len(out) == 0 {
		out = append(out, Finding{Level: OK, What: fmt.Sprintf("no grant of %s reaches what it must not (%d lines)", count(r.Checked.Agents, "agent"), r.Checked.Lines)})
	}
	return out
}

func administer(ctx context.Context, m *meshclient.Mesh, op wire.Op, out any) error {
	body, err := json.Marshal(wire.AdminRequest{Op: op})
	if err != nil {
		return err
	}
	reply, err := m.Call(ctx, wire.AdminScope, body, meshclient.ContentType("application/json"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(reply.Data, out); err != nil {
		return fmt.Errorf("the answer does not parse: %w", err)
	}
	return nil
}
