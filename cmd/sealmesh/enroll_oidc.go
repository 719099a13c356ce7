package main

import (
	"bytes"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sealmesh/sealmesh/internal/enrol"
)

// maxPlatform is the longest platform token that is read, in bytes.
const maxPlatform = 16 << 10

// platformFlags name what enrols without a join token.
type platformFlags struct{ file, control, ca, agent string }

func (p *platformFlags) register(f *pflag.FlagSet) {
	f.StringVar(&p.file, "oidc-token-file", "", "file with the platform's OpenID Connect token, in place of a join token")
	f.StringVar(&p.control, "control", "", "with --oidc-token-file: https:// URL of the control plane")
	f.StringVar(&p.ca, "ca", "", "with --oidc-token-file: hash of the mesh's infra root, as sealmesh ca show prints it")
	f.StringVar(&p.agent, "agent", "", "with --oidc-token-file: the agent to become an instance of")
}

func (p *platformFlags) given(c *cobra.Command) bool {
	for _, name := range []string{"oidc-token-file", "control", "ca", "agent"} {
		if c.Flags().Changed(name) {
			return true
		}
	}
	return false
}

// platform reads the token, which is a secret and stands in a file.
func (a *app) platform(c *cobra.Command, p platformFlags, join string) (enrol.Platform, error) {
	var none enrol.Platform
	if join != "" {
		return none, usage(c, "--join and --oidc-token-file exclude each other")
	}
	if p.file == "" || p.control == "" || p.ca == "" || p.agent == "" {
		return none, usage(c, "--oidc-token-file, --control, --ca and --agent go together")
	}
	id, err := agentArg(c, p.agent)
	if err != nil {
		return none, err
	}
	f, err := os.Open(p.file)
	if err != nil {
		return none, err
	}
	defer f.Close() //nolint:errcheck // only read
	text, err := readAll(f, "the platform token", maxPlatform)
	if err != nil {
		return none, err
	}
	token := string(bytes.TrimSpace(text))
	if token == "" {
		return none, usage(c, "%s is empty", p.file)
	}
	return enrol.Platform{URL: p.control, CA: p.ca, Agent: id, Token: token}, nil
}
