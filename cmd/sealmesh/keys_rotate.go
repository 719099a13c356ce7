package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// keyRotation is what the flags of keys rotate say.
type keyRotation struct {
	leaked, finish, force bool
	purpose               string
	life                  time.Duration
}

func newKeysRotate(a *app) *cobra.Command {
	var o keyRotation
	c := &cobra.Command{
		Use:   "rotate signing|issuer|xkey|root",
		Short: "Replace a key of the mesh, in the mesh directory",
		Long: `Replace a key while the mesh runs. No epoch rises and no connection is cut, except
by the restart of nats-servers that issuer and xkey need.

signing  new keys for root tokens and records (--purpose tokens|records for one of
         them). It needs root/. The control plane takes them into use by itself and
         signs anew what the old key signed. The old certificates count until they
         end; with --leaked only until nothing rests on them, which ends what agents
         lent to each other before: they lend it again.
issuer   the key that signs user JWTs for nats-server, and
xkey     the key that its questions are sealed to. Both stand in nats-server.conf,
         which is written anew where it is as it was generated. Restart the servers
         one after another then: nats-server does not take these by a reload, and
         refuses any other reload until then. The old key is kept until --finish. With --leaked it is not kept.
root     the authority root. It needs root/. Agents follow by themselves, by the old
         root's own word. With --leaked there is no such word, the signing keys are
         replaced too, and every agent has to be enrolled again in its directory.

--finish ends the time in which the old one counts as well.`,
		Example: `  sealmesh keys rotate signing
  sealmesh keys rotate signing --purpose tokens --leaked
  sealmesh keys rotate issuer
  sealmesh keys rotate issuer --finish`,
		Args: takes(1, 1, "signing, issuer, xkey or root"),
		RunE: func(c *cobra.Command, args []string) error {
			m, err := meshdir.Load(a.mesh)
			if err != nil {
				return err
			}
			what := args[0]
			if (o.purpose != "" || o.life != 0) && what != "signing" {
				return usage(c, "--purpose and --for are of keys rotate signing alone")
			}
			if o.finish && o.leaked {
				return usage(c, "--leaked and --finish do not go together")
			}
			switch what {
			case "signing", "root":
				if o.finish {
					return a.finishSigning(c, m, what, o.force)
				}
				if what == "root" {
					return a.rotateRoot(m, o)
				}
				return a.rotateSigning(c, m, o)
			case "issuer", "xkey":
				key := meshdir.CalloutKey(what)
				if o.finish {
					return a.finishCallout(c, m, key, o.force)
				}
				return a.rotateCallout(m, key, o.leaked)
			}
			return usage(c, "%q is not signing, issuer, xkey or root", what)
		},
	}
	f := c.Flags()
	f.BoolVar(&o.leaked, "leaked", false, "the old key may be in the wrong hands: it is not to count any longer than it must")
	f.BoolVar(&o.finish, "finish", false, "forget the key that was replaced before")
	f.BoolVar(&o.force, "force", false, "with --finish: without asking whether anything still needs it")
	f.StringVar(&o.purpose, "purpose", "", "of signing: tokens or records alone")
	f.DurationVar(&o.life, "for", 0, "of signing: how long the new keys are certified (default 2160h)")
	return c
}

func (a *app) rotateSigning(c *cobra.Command, m *meshdir.Mesh, o keyRotation) error {
	purposes := []capability.Purpose{capability.ForTokens, capability.ForRecords}
	if o.purpose != "" {
		purposes = []capability.Purpose{capability.Purpose(o.purpose)}
		if !slices.Contains([]string{"tokens", "records"}, o.purpose) {
			return usage(c, "--purpose %q is not tokens or records", o.purpose)
		}
	}
	if err := m.ChangeSigningKeys(meshdir.KeyChange{New: purposes, Leaked: o.leaked, For: o.life, Now: a.now()}); err != nil {
		return err
	}
	doc := keysDoc{Schema: keysSchema, What: "signing", Leaked: o.leaked, Servers: []meshdir.ConfChange{}}
	return a.show(doc, func(w io.Writer) {
		fmt.Fprintln(w, "there are new signing keys; the control plane takes them into use and signs anew what the old ones signed")
		fmt.Fprintln(w, "where control planes run on other hosts, copy server/ to each of them now")
		if o.leaked {
			fmt.Fprintln(w, "the old keys count until nothing rests on them; what agents lent to each other ends then, and they lend it again")
			fmt.Fprintf(w, "%s forgets them once %s says that none leaves\n", a.suggest("keys rotate signing --finish"), a.suggest("keys show"))
		}
		fmt.Fprintf(w, "take root/ offline again; %s says how far it is\n", a.suggest("keys show"))
	})
}

func (a *app) rotateRoot(m *meshdir.Mesh, o keyRotation) error {
	next, err := m.RotateRoot(meshdir.KeyChange{Leaked: o.leaked, Now: a.now()})
	if err != nil {
		return err
	}
	doc := keysDoc{Schema: keysSchema, What: "root", Leaked: o.leaked, Root: next, Servers: []meshdir.ConfChange{}}
	return a.show(doc, func(w io.Writer) {
		table(w, []string{"new authority root", next})
		if o.leaked {
			fmt.Fprintln(w, "agents elsewhere than in this mesh directory believe nobody until they are enrolled again:")
			fmt.Fprintf(w, "  %s, then sealmesh enroll in the same directory\n", a.suggest("agent join ID"))
		} else {
			fmt.Fprintf(w, "agents follow by the old root's word; %s ends that, and who has not heard of it by then has to be enrolled again\n", a.suggest("keys rotate root --finish"))
		}
		fmt.Fprintln(w, "take root/ offline again")
	})
}

func (a *app) rotateCallout(m *meshdir.Mesh, key meshdir.CalloutKey, leaked bool) error {
	changes, err := m.RotateCalloutKey(key, leaked)
	if err != nil {
		return err
	}
	doc := keysDoc{Schema: keysSchema, What: string(key), Leaked: leaked, Servers: some(changes)}
	return a.show(doc, func(w io.Writer) {
		for _, ch := range changes {
			if ch.Written {
				fmt.Fprintf(w, "written: %s\n", ch.Path)
				continue
			}
			fmt.Fprintf(w, "not written, because %s: %s\n  change  %s\n  to      %s\n", ch.Why, ch.Path, ch.Lines[0], ch.Lines[1])
		}
		if leaked {
			fmt.Fprintln(w, "the old one counts no more: a server that was not restarted lets nobody in")
		}
		fmt.Fprintln(w, "restart the nats-servers one after another; a reload does not do, and is refused until then")
	})
}

// finishCallout drops the old key once every server asks by the new one.
func (a *app) finishCallout(c *cobra.Command, m *meshdir.Mesh, key meshdir.CalloutKey, force bool) error {
	if !force {
		list, err := a.keyList(c, false)
		if err != nil {
			return err
		}
		if err := a.allAskBy(list, key); err != nil {
			return err
		}
	}
	if err := m.FinishCalloutKey(key); err != nil {
		return err
	}
	doc := keysDoc{Schema: keysSchema, What: string(key) + " finished", Servers: []meshdir.ConfChange{}}
	return a.show(doc, func(w io.Writer) { fmt.Fprintf(w, "the old %s is forgotten\n", key) })
}

func (a *app) allAskBy(l wire.KeyList, key meshdir.CalloutKey) error {
	i := slices.IndexFunc(l.Keys, func(k wire.KeyView) bool { return k.Name == string(key) && k.InUse })
	if i < 0 || len(l.Servers) == 0 {
		return &hinted{fmt.Errorf("it is not known which %s the servers have", key), "--force forgets the old one all the same"}
	}
	for _, s := range l.Servers {
		asks := s.Issuer
		if key == meshdir.CalloutXKey {
			asks = s.XKey
		}
		if asks != l.Keys[i].Public {
			return &hinted{fmt.Errorf("server %s has not asked by the new %s yet", s.Server, key), "restart that server, or wait until an agent connects to it; --force forgets the old one all the same"}
		}
	}
	return nil
}

// finishSigning drops what was only for the time of the change.
func (a *app) finishSigning(c *cobra.Command, m *meshdir.Mesh, what string, force bool) error {
	if !force {
		list, err := a.keyList(c, false)
		if err != nil {
			return err
		}
		var left error
		switch {
		case list.Unsigned > 0:
			left = fmt.Errorf("%d documents are still signed by an earlier key", list.Unsigned)
		case list.Unsigned < 0:
			left = errors.New("the control plane has not looked yet at what is signed by an earlier key")
		case list.Leaving:
			left = errors.New("a key that was replaced still counts")
		}
		if left != nil {
			return &hinted{left, a.suggest("keys show") + " says how far it is"}
		}
	}
	if err := m.FinishSigningKeys(); err != nil {
		return err
	}
	doc := keysDoc{Schema: keysSchema, What: what + " finished", Servers: []meshdir.ConfChange{}}
	return a.show(doc, func(w io.Writer) { fmt.Fprintln(w, "what was replaced is forgotten") })
}
