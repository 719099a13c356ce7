package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/meshfile"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// exportDoc is sealmesh.export/v1: what the file says, for programs.
type exportDoc struct {
	Schema string          `json:"schema"`
	File   string          `json:"file,omitempty"` // where it was written
	Topics []exportedTopic `json:"topics"`
	Agents []exportedAgent `json:"agents"`
}

type exportedTopic struct {
	Topic    string `json:"topic"`
	MaxAgeMS int64  `json:"max_age_ms"`
}

type exportedAgent struct {
	Agent       agentid.ID         `json:"agent"`
	Kind        registry.Kind      `json:"kind"`
	Heartbeat   registry.Heartbeat `json:"heartbeat"`
	Readmit     registry.Readmit   `json:"readmit"`
	Sessions    registry.Sessions  `json:"sessions"`
	Stock       bool               `json:"stock"`
	Depth       int                `json:"depth"`
	Call        []capability.Scope `json:"call"`
	Handle      []capability.Scope `json:"handle"`
	Publish     []string           `json:"publish"`
	Subscribe   []string           `json:"subscribe"`
	MayDelegate []capability.Scope `json:"may_delegate"`
	Plain       wire.PlainView     `json:"plain"`
	Labels      map[string]string  `json:"labels"`
}

func newExport(a *app) *cobra.Command {
	var out string
	var force bool
	c := &cobra.Command{
		Use:   "export",
		Short: "Write the mesh as a mesh file",
		Long: `Write the agents, their rights and settings, and the durable topics as the file
that sealmesh diff and sealmesh apply read. Keys, states, delegations and revoked
agents are not in it.`,
		Args: takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			if force && out == "" {
				return usage(c, "--force goes with --out")
			}
			return a.export(c.Context(), out, force)
		},
	}
	c.Flags().StringVarP(&out, "out", "o", "", "write it to this file")
	c.Flags().BoolVar(&force, "force", false, "overwrite the file")
	return c
}

func (a *app) export(ctx context.Context, out string, force bool) error {
	if _, err := os.Lstat(out); err == nil && out != "" && !force {
		return occupied(out)
	}
	ctx, cancel := a.deadline(ctx, 0)
	defer cancel()
	w, err := a.meshwork(ctx)
	if err != nil {
		return err
	}
	defer w.leave()
	have, err := meshfile.Read(ctx, w.operate, nil)
	if err != nil {
		return err
	}
	m := meshfile.Export(have)
	if out != "" {
		if err := writeMeshFile(out, m.Text(), force); err != nil {
			return err
		}
	}
	return a.show(exported(m, out), func(w io.Writer) {
		if out == "" {
			w.Write(m.Text()) //nolint:errcheck // a strings.Builder takes everything
			return
		}
		fmt.Fprintf(w, "wrote %s and %s to %s\n", count(len(m.Agents), "agent"), count(len(m.Topics), "topic"), clean(out))
	})
}

func occupied(path string) error {
	return &hinted{fmt.Errorf("%s exists already", path), "--force overwrites it; sealmesh diff " + quoted(path) + " compares"}
}

// writeMeshFile writes the whole file or leaves what was there.
func writeMeshFile(path string, text []byte, force bool) (err error) {
	if !force {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, fs.ErrExist) {
			return occupied(path)
		}
		if err != nil {
			return err
		}
		_, err = f.Write(text)
		if err = errors.Join(err, f.Close()); err != nil {
			return errors.Join(err, os.Remove(path))
		}
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func exported(m *meshfile.Mesh, out string) exportDoc {
	doc := exportDoc{Schema: "sealmesh.export/v1", File: out, Topics: []exportedTopic{}, Agents: []exportedAgent{}}
	for _, t := range m.Topics {
		doc.Topics = append(doc.Topics, exportedTopic{t.Topic, (time.Duration(t.MaxAge) * time.Second).Milliseconds()})
	}
	for _, a := range m.Agents {
		e := exportedAgent{
			Agent: a.Agent, Kind: a.Kind, Heartbeat: a.Heartbeat, Readmit: a.Readmit, Sessions: a.Sessions, Stock: a.Stock, Depth: a.Depth,
			Call: some(a.Rights.Call), Handle: some(a.Rights.Handle), Publish: some(a.Rights.Publish), Subscribe: some(a.Rights.Subscribe),
			MayDelegate: some(a.Rights.MayDelegate), Labels: a.Labels,
			Plain: wire.PlainView{Publish: some(a.Rights.Plain.Publish), Subscribe: some(a.Rights.Plain.Subscribe)},
		}
		if e.Labels == nil {
			e.Labels = map[string]string{}
		}
		doc.Agents = append(doc.Agents, e)
	}
	return doc
}
