package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/registry"
)

// readAll reads at most most bytes of r and refuses more.
func readAll(r io.Reader, what string, most int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", what, err)
	}
	if len(b) > most {
		return nil, denial.New(denial.TooLarge, "%s is longer than %d bytes", what, most)
	}
	return b, nil
}

// payloadArg is the payload that the second argument names: itself, or "-" for
// standard input. Without one the payload is empty.
func (a *app) payloadArg(args []string) ([]byte, error) {
	switch {
	case len(args) < 2:
		return nil, nil
	case args[1] == "-":
		return readAll(a.stdin, "the payload", limits.Body)
	}
	return []byte(args[1]), nil
}

// textArg reads a one-line document that is given as itself, as @FILE, or as
// "-" for standard input.
func (a *app) textArg(arg, what string, most int) (string, error) {
	var b []byte
	var err error
	if name, ok := strings.CutPrefix(arg, "@"); ok {
		var f *os.File
		if f, err = os.Open(name); err != nil {
			return "", err
		}
		defer f.Close() //nolint:errcheck // only read
		b, err = readAll(f, what, most)
	} else if arg == "-" {
		b, err = readAll(a.stdin, what, most)
	} else {
		b = []byte(arg)
	}
	return string(bytes.TrimSpace(b)), err
}

// agentArg reads an agent ID from the command line.
func agentArg(c *cobra.Command, s string) (agentid.ID, error) {
	id, err := agentid.Parse(s)
	if err != nil {
		return agentid.ID{}, usage(c, "%w", err)
	}
	return id, nil
}

// targetArg reads an agent or one of its instances.
func targetArg(c *cobra.Command, s string) (string, error) {
	if _, _, err := agentid.ParseTarget(s); err != nil {
		return "", usage(c, "%w", err)
	}
	return s, nil
}

// scopeArg reads a scope from the command line.
func scopeArg(c *cobra.Command, s string) (capability.Scope, error) {
	scope, err := capability.ParseScope(s)
	if err != nil {
		return capability.Scope{}, badScope(c, err)
	}
	return scope, nil
}

func badScope(c *cobra.Command, err error) error {
	e := usage(c, "%w", err)
	if h := denial.Hint(denial.Of(err)); h != "" {
		e.hint = h
	}
	return e
}

func scopeArgs(c *cobra.Command, list []string) ([]capability.Scope, error) {
	var out []capability.Scope
	for _, s := range list {
		scope, err := scopeArg(c, s)
		if err != nil {
			return nil, err
		}
		out = append(out, scope)
	}
	return out, nil
}

// rightsFlags are the flags that name rights; each may be given more than once.
// Those of the mesh take lists with commas; a subject outside may have one in it.
type rightsFlags struct {
	call, handle, publish, subscribe, mayDelegate []string
	plain                                         registry.Plain
}

func (r *rightsFlags) register(f *pflag.FlagSet) {
	f.StringSliceVar(&r.call, "call", nil, "scopes that the agent may call")
	f.StringSliceVar(&r.handle, "handle", nil, "scopes whose calls it may answer")
	f.StringSliceVar(&r.publish, "publish", nil, "topics that it may publish")
	f.StringSliceVar(&r.subscribe, "subscribe", nil, "topics that it may subscribe")
	f.StringSliceVar(&r.mayDelegate, "may-delegate", nil, "which of its rights it may pass on, as scopes (read:logs, publish:news)")
	f.StringArrayVar(&r.plain.Publish, "plain-publish", nil, "one subject outside the mesh that it may publish; nothing there is signed")
	f.StringArrayVar(&r.plain.Subscribe, "plain-subscribe", nil, "one subject outside the mesh that it may subscribe; nothing there is signed")
}

func (r *rightsFlags) rights(c *cobra.Command) (registry.Rights, error) {
	var out registry.Rights
	var err error
	if out.Call, err = scopeArgs(c, r.call); err != nil {
		return out, err
	}
	if out.Handle, err = scopeArgs(c, r.handle); err != nil {
		return out, err
	}
	if out.MayDelegate, err = scopeArgs(c, r.mayDelegate); err != nil {
		return out, err
	}
	for _, s := range out.MayDelegate {
		if !s.MayDelegate() {
			return out, usage(c, "%q can never be delegated", s)
		}
	}
	for _, s := range out.Handle {
		if _, err := capability.HandleOf(s); err != nil {
			return out, badScope(c, err)
		}
	}
	for _, t := range r.publish {
		if _, err := capability.PublishOf(t); err != nil {
			return out, badScope(c, err)
		}
	}
	for _, t := range r.subscribe {
		if _, err := capability.SubscribeOf(t); err != nil {
			return out, badScope(c, err)
		}
	}
	out.Publish, out.Subscribe, out.Plain = r.publish, r.subscribe, r.plain
	return out, nil
}

// depthArg refuses a depth that no token can have.
func depthArg(c *cobra.Command, depth int) error {
	if depth < 0 || depth > limits.Depth {
		return usage(c, "--depth is 0 to %d", limits.Depth)
	}
	return nil
}

// some rights must be named where nothing else would change.
func (r *rightsFlags) required(c *cobra.Command) (registry.Rights, error) {
	out, err := r.rights(c)
	if err == nil && out.IsZero() {
		err = usage(c, "name at least one right: --call, --handle, --publish, --subscribe, --may-delegate, --plain-publish or --plain-subscribe")
	}
	return out, err
}

// labelsArg reads name=value pairs.
func labelsArg(c *cobra.Command, list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, s := range list {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return nil, usage(c, "--label %q is not name=value", s)
		}
		if _, twice := out[k]; twice {
			return nil, usage(c, "--label names %q twice", k)
		}
		out[k] = v
	}
	return out, nil
}

// isEmpty reports whether there is nothing at path, or an empty directory.
func isEmpty(path string) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close() //nolint:errcheck // only read
	if _, err = f.Readdirnames(1); errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}
