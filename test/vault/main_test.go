package vault_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/sealmesh/sealmesh/pki"
)

var (
	program = flag.String("vault", "", "the vault program; make test-vault builds it")
	loadFor = flag.Duration("for", 0, "how long TestSealedUnderLoad runs; 0 leaves it out")
)

// the is the one server of all tests, made when the first of them needs it.
var the struct {
	once sync.Once
	*server
	err error
}

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	if the.server != nil {
		the.stop()
	}
	os.Exit(code)
}

// server is a Vault that was set up as docs/operations.md says.
type server struct {
	dir, addr, ca string
	key           string      // unseals it
	root          *api.Client // may do anything
	process       *exec.Cmd
	log           *os.File
}

// running returns the server, or leaves the test out where there is no program.
func running(t *testing.T) *server {
	t.Helper()
	if *program == "" {
		t.Skip("LEFT OUT: needs the real Vault; make test-vault builds it and runs this")
	}
	the.once.Do(func() { the.server, the.err = start() })
	if the.err != nil {
		t.Fatal(the.err)
	}
	return the.server
}

func start() (s *server, err error) {
	dir, err := os.MkdirTemp("", "vault")
	if err != nil {
		return nil, err
	}
	s = &server{dir: dir, ca: filepath.Join(dir, "vault-ca.pem")}
	defer func() {
		if err != nil {
			s.stop()
			s = nil
		}
	}()
	if err := s.configure(); err != nil {
		return s, err
	}
	if s.log, err = os.Create(filepath.Join(dir, "vault.log")); err != nil {
		return s, err
	}
	bin, err := filepath.Abs(*program)
	if err != nil {
		return s, err
	}
	s.process = exec.Command(bin, "server", "-config", filepath.Join(dir, "vault.hcl"))
	s.process.Stdout, s.process.Stderr = s.log, s.log
	if err := s.process.Start(); err != nil {
		return s, err
	}
	if err := s.initialise(); err != nil {
		return s, err
	}
	return s, s.recipe(bin)
}

// configure writes the configuration and a certificate for the server.
func (s *server) configure() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	port := l.Addr().String()
	if err := l.Close(); err != nil {
		return err
	}
	s.addr = "https://" + port
	root, err := pki.NewCA(pki.Infra, "vault.test", time.Now())
	if err != nil {
		return err
	}
	ca, err := root.Intermediate(time.Now())
	if err != nil {
		return err
	}
	key, err := pki.NewTLSKey()
	if err != nil {
		return err
	}
	chain, err := ca.SignServer(key.Public(), []string{"127.0.0.1"}, "vault", 0, time.Now())
	if err != nil {
		return err
	}
	text, err := key.PEM()
	if err != nil {
		return err
	}
	conf := fmt.Sprintf(`
storage "inmem" {}
disable_mlock = true
api_addr      = %q
listener "tcp" {
  address       = %q
  tls_cert_file = %q
  tls_key_file  = %q
}
`, s.addr, port, filepath.Join(s.dir, "tls.crt"), filepath.Join(s.dir, "tls.key"))
	return errors.Join(
		pki.WriteSecret(filepath.Join(s.dir, "tls.key"), text),
		pki.WriteFile(filepath.Join(s.dir, "tls.crt"), chain),
		pki.WriteFile(s.ca, pki.EncodeCertificates(root.Certificate())),
		os.WriteFile(filepath.Join(s.dir, "vault.hcl"), []byte(conf), 0o600),
	)
}

func (s *server) initialise() error {
	c := api.DefaultConfig()
	c.Address = s.addr
	if err := c.ConfigureTLS(&api.TLSConfig{CACert: s.ca}); err != nil {
		return err
	}
	client, err := api.NewClient(c)
	if err != nil {
		return err
	}
	s.root = client
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var made *api.InitResponse
	for {
		made, err = client.Sys().InitWithContext(ctx, &api.InitRequest{SecretShares: 1, SecretThreshold: 1})
		if err == nil {
			break
		}
		if ctx.Err() != nil || s.process.ProcessState != nil {
			return fmt.Errorf("Vault does not come up: %w\n%s", err, s.logged())
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.key = made.KeysB64[0]
	client.SetToken(made.RootToken)
	return s.unseal()
}

// unseal returns once requests are served.
func (s *server) unseal() error {
	if _, err := s.root.Sys().Unseal(s.key); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		h, err := s.root.Sys().Health()
		if err == nil && !h.Sealed && !h.Standby {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("Vault stays sealed: %+v, %w", h, err)
		}
	}
}

func (s *server) seal() error { return s.root.Sys().Seal() }

// stop ends the server and removes what it left.
func (s *server) stop() {
	if s.process != nil && s.process.Process != nil {
		s.process.Process.Kill() //nolint:errcheck // it may be gone
		s.process.Wait()         //nolint:errcheck // it was killed
	}
	if s.log != nil {
		s.log.Close() //nolint:errcheck // nothing more is written
	}
	os.RemoveAll(s.dir) //nolint:errcheck // a folder for temporary files
}

func (s *server) logged() string {
	text, _ := os.ReadFile(filepath.Join(s.dir, "vault.log"))
	return string(text[max(0, len(text)-4000):])
}

var section = regexp.MustCompile("(?s)\n### Setting up Vault\n(.*?)\n### ")

// documented are the shell commands of docs/operations.md, those for Vault first,
// then those that make the mesh.
func documented() (forVault, forMesh string, err error) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		return "", "", err
	}
	found := section.FindStringSubmatch(string(text))
	if found == nil {
		return "", "", errors.New("docs/operations.md has no section about setting up Vault")
	}
	var blocks []string
	for _, part := range strings.Split(found[1], "```sh\n")[1:] {
		block, _, _ := strings.Cut(part, "```")
		blocks = append(blocks, block)
	}
	if len(blocks) != 2 {
		return "", "", fmt.Errorf("got %d blocks of commands about Vault, want one for Vault and one for the mesh", len(blocks))
	}
	return blocks[0], blocks[1], nil
}

// recipe runs the documented commands, in the server's folder.
func (s *server) recipe(bin string) error {
	script, _, err := documented()
	if err != nil {
		return err
	}
	if err := errors.Join(os.Mkdir(s.tools(), 0o700), os.Symlink(bin, filepath.Join(s.tools(), "vault"))); err != nil {
		return err
	}
	out, err := s.sh(script)
	if err != nil {
		return fmt.Errorf("the commands of docs/operations.md: %w\n%s", err, out)
	}
	return nil
}

func (s *server) tools() string { return filepath.Join(s.dir, "bin") }

// sh runs shell commands in the server's folder, as root of Vault.
func (s *server) sh(script string) ([]byte, error) {
	sh := exec.Command("sh", "-eu")
	sh.Dir = s.dir
	sh.Stdin = strings.NewReader(script)
	sh.Env = append(os.Environ(), "PATH="+s.tools()+":"+os.Getenv("PATH"), "HOME="+s.dir,
		"VAULT_ADDR="+s.addr, "VAULT_CACERT="+s.ca, "VAULT_TOKEN="+s.root.Token())
	return sh.CombinedOutput()
}

func (s *server) shell(t *testing.T, script string) {
	t.Helper()
	if out, err := s.sh(script); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// write writes to Vault as root.
func (s *server) write(t *testing.T, path string, data map[string]any) *api.Secret {
	t.Helper()
	secret, err := s.root.Logical().WriteWithContext(t.Context(), path, data)
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// role copies the documented role under a name of the test's own, with changes.
func (s *server) role(t *testing.T, changes map[string]any) string {
	t.Helper()
	secret, err := s.root.Logical().ReadWithContext(t.Context(), "sealmesh/roles/agents")
	if err != nil || secret == nil {
		t.Fatalf("the role of the recipe: %v, %v", secret, err)
	}
	for k, v := range changes {
		secret.Data[k] = v
	}
	name := strings.ToLower(regexp.MustCompile(`[^A-Za-z0-9]+`).ReplaceAllString(t.Name(), "-"))
	s.write(t, "sealmesh/roles/"+name, secret.Data)
	return name
}

// token makes a token and its file; the policy is that of the recipe for the role.
func (s *server) token(t *testing.T, role string, more map[string]any) (token, file string) {
	t.Helper()
	policy := fmt.Sprintf("path \"sealmesh/sign/%s\" { capabilities = [\"update\"] }\npath \"sealmesh/roles/%s\" { capabilities = [\"read\"] }\n", role, role)
	if err := s.root.Sys().PutPolicy("test-"+role, policy); err != nil {
		t.Fatal(err)
	}
	data := map[string]any{"policies": []string{"test-" + role}, "no_parent": true}
	for k, v := range more {
		data[k] = v
	}
	token = s.write(t, "auth/token/create", data).Auth.ClientToken
	file = filepath.Join(t.TempDir(), "token")
	if err := pki.WriteSecret(file, []byte(token+"\n")); err != nil {
		t.Fatal(err)
	}
	return token, file
}
