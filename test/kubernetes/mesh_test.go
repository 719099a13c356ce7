package kubernetes_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// within is how long anything may take on a busy machine.
const within = 90 * time.Second

// account is the issuer of service accounts' tokens: the part of the API server that
// the mesh looks at.
type account struct {
	*httptest.Server
	key *rsa.PrivateKey
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func newAccount(t *testing.T) *account {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	a := &account{key: key}
	a.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/openid/v1/jwks" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/jwk-set+json")
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": []map[string]string{{
			"kty": "RSA", "kid": "cluster", "use": "sig", "alg": "RS256", "n": b64(key.N.Bytes()), "e": b64(big.NewInt(int64(key.E)).Bytes()),
		}}})
	}))
	t.Cleanup(a.Close)
	return a
}

func (a *account) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate().Raw}))
}

func (a *account) token(subject, audience string) string {
	now := time.Now().Unix()
	claims, err := json.Marshal(map[string]any{"iss": a.URL, "sub": subject, "aud": []string{audience}, "iat": now, "nbf": now, "exp": now + 600})
	if err != nil {
		panic(err)
	}
	signed := b64([]byte(`{"alg":"RS256","kid":"cluster","typ":"JWT"}`)) + "." + b64(claims)
	sum := sha256.Sum256([]byte(signed))
	sig, err := rsa.SignPKCS1v15(rand.Reader, a.key, crypto.SHA256, sum[:])
	if err != nil {
		panic(err)
	}
	return signed + "." + b64(sig)
}

// ports finds free ones, all different.
func ports(t *testing.T, n int) []string {
	t.Helper()
	var out []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() //nolint:errcheck // it was for the number
		_, port, _ := net.SplitHostPort(l.Addr().String())
		out = append(out, port)
	}
	return out
}

// output is what a process printed so far.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// process is a container that runs until stop, or the end of the test.
type process struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	out  output
	done chan struct{}
}

func (p *pod) start(c corev1.Container) *process {
	t := p.o.t
	t.Helper()
	env, args := p.command(c)
	r := &process{t: t, name: p.name + "/" + c.Name, cmd: exec.Command(args[0], args[1:]...), done: make(chan struct{})} //nolint:gosec // from our own manifests
	r.cmd.Env = append(os.Environ(), env...)
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.out
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = r.cmd.Wait(); close(r.done) }()
	t.Cleanup(r.stop)
	return r
}

// stop is what a kubelet does, without the wait.
func (r *process) stop() {
	select {
	case <-r.done:
	default:
		_ = r.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-r.done:
		case <-time.After(15 * time.Second):
			_ = r.cmd.Process.Kill()
			<-r.done
		}
	}
	if r.t.Failed() {
		text := r.out.String()
		r.t.Logf("%s:\n%s", r.name, text[max(0, len(text)-3000):])
	}
}

// init runs the init containers.
func (p *pod) init() (string, error) {
	p.o.t.Helper()
	for _, c := range p.template.spec.InitContainers {
		env, args := p.command(c)
		cmd := exec.CommandContext(p.o.t.Context(), args[0], args[1:]...) //nolint:gosec // from our own manifests
		cmd.Env = append(os.Environ(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return string(out), fmt.Errorf("%s/%s: %w", p.name, c.Name, err)
		}
	}
	return "", nil
}

func (p *pod) mustInit() {
	p.o.t.Helper()
	if out, err := p.init(); err != nil {
		p.o.t.Fatalf("%v\n%s", err, out)
	}
}

// insecure asks as a kubelet does, which looks at no certificate.
var insecure = &http.Client{
	Timeout:   5 * time.Second,
	Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}, //nolint:gosec // see above
}

// ready waits until a probe is content.
func ready(t *testing.T, what, url string) {
	t.Helper()
	eventually(t, what, func() (string, bool) {
		r, err := insecure.Get(url)
		if err != nil {
			return err.Error(), false
		}
		defer r.Body.Close() //nolint:errcheck // only read
		b, _ := io.ReadAll(io.LimitReader(r.Body, 1024))
		return r.Status + " " + string(b), r.StatusCode == http.StatusOK
	})
}

func eventually(t *testing.T, what string, f func() (string, bool)) {
	t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		got, ok := f()
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %s", what, got)
		}
	}
}

// world is the mesh of the README on this machine.
type world struct {
	*operator
	accounts *account
	port     []string // of nats-servers: clients, routes, monitoring; of control planes
}

const servers = 3

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{accounts: newAccount(t), port: ports(t, 3*servers+2)}
	var pairs []string
	for i := range servers {
		pairs = append(pairs, fmt.Sprintf("nats-%d=nats-%d.nats-headless.sealmesh.svc", i, i), fmt.Sprintf("nats-%d=127.0.0.1:%s:%s", i, w.port[i], w.port[servers+i]))
	}
	w.operator = follow(t, append(pairs,
		"--control-listen 0.0.0.0:4223", "--control-listen "+w.control(0),
		"https://sealmesh.sealmesh.svc:4223", "https://"+w.control(0),
		"https://kubernetes.default.svc.cluster.local", w.accounts.URL,
		"https://kubernetes.default.svc/", w.accounts.URL+"/")...)
	return w
}

func (w *world) control(i int) string { return "127.0.0.1:" + w.port[3*servers+i] }

func (w *world) servers() {
	t := w.t
	t.Helper()
	p := templates(t, chart(t))[0]
	c := p.spec.Containers[0]
	var probes []string
	for i := range servers {
		one := w.lay(p, fmt.Sprintf("nats-%d", i), nil)
		one.rewrite("/etc/sealmesh/nats-server.conf", "127.0.0.1:8222", "127.0.0.1:"+w.port[2*servers+i])
		probe := c.ReadinessProbe.Exec.Command
		probes = append(probes, strings.Replace(probe[len(probe)-1], ":8222", ":"+w.port[2*servers+i], 1))
		// A stock server has to take the file before it is asked to run it.
		if out, err := exec.CommandContext(t.Context(), "nats-server", "-t", "-c", one.root+"/etc/sealmesh/nats-server.conf").CombinedOutput(); err != nil {
			t.Fatalf("nats-server -t: %v\n%s", err, out)
		}
		one.start(c)
	}
	for i, url := range probes {
		ready(t, fmt.Sprintf("nats-%d", i), url)
	}
}

// named returns the pods of one manifest.
func named(t *testing.T, name string) template {
	t.Helper()
	for _, p := range templates(t, manifests(t)) {
		if p.name == name {
			return p
		}
	}
	t.Fatalf("no pods %s", name)
	return template{}
}

// plane lays out a replica of the control plane.
func (w *world) plane(i int) *pod {
	w.t.Helper()
	p := w.lay(named(w.t, "sealmesh-server"), fmt.Sprintf("sealmesh-server-%d", i), nil)
	p.rewrite("/etc/sealmesh/config/sealmesh.yaml", `listen: "`+w.control(0)+`"`, `listen: "`+w.control(i)+`"`)
	return p
}

func TestTheMeshComesUp(t *testing.T) {
	w := newWorld(t)
	for _, s := range []string{"", "The mesh", "What each may read"} {
		w.do(s)
	}
	dir := filepath.Join(w.cluster, "sealmesh", "configmap", "kube-root-ca.crt")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "ca.crt"), w.accounts.ca(), 0o600)

	w.do("Up")
	w.servers()
	first, second := w.plane(0), w.plane(1)
	server := first.template.spec.Containers[0]

	// Why there is an init container: as they are in the volume, the keys are refused.
	direct := w.plane(0)
	if err := os.Symlink(direct.root+"/etc/sealmesh/server", direct.root+"/srv/mesh/server"); err != nil {
		t.Fatal(err)
	}
	write(t, direct.root+"/srv/mesh/sealmesh.yaml", read(t, direct.root+"/etc/sealmesh/config/sealmesh.yaml"), 0o600)
	_, args := direct.command(server)
	if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err == nil || !strings.Contains(string(out), "mode 0440") { //nolint:gosec // from our own manifests
		t.Errorf("keys in a volume: got %v, %s", err, out)
	}

	var running *process
	for _, p := range []*pod{first, second} {
		p.mustInit()
		running = p.start(server)
	}
	probe := server.ReadinessProbe.HTTPGet
	url := func(i int) string { return strings.ToLower(string(probe.Scheme)) + "://" + w.control(i) + probe.Path }
	for i := range 2 {
		ready(t, fmt.Sprintf("control plane %d", i), url(i))
	}

	if err := os.Mkdir(filepath.Join(w.cluster, "operator"), 0o700); err != nil {
		t.Fatal(err)
	}
	if out := w.do("The administrator"); !strings.Contains(out, "1 active") {
		t.Errorf("status says\n%s", out)
	}

	// A replica whose disk was opened to the group comes back.
	running.stop()
	if err := os.Chmod(second.root+"/var/lib/sealmesh/epochs.log", 0o660); err != nil {
		t.Fatal(err)
	}
	second.mustInit()
	second.start(server)
	ready(t, "control plane 1, again", url(1))

	w.do("An agent")
	w.agent()

	w.do("Away again")
	w.gone()
}

// agent starts the pods of agent.yaml and calls them.
func (w *world) agent() {
	t := w.t
	t.Helper()
	reader := named(t, "reader")
	stranger := reader
	stranger.spec.ServiceAccountName = "another"
	if out, err := w.lay(stranger, "stranger", w.accounts.token).init(); err == nil || !strings.Contains(out, "bad-join-token") {
		t.Errorf("a pod of another service account: got %v, %s", err, out)
	}
	var pods []*process
	for i := range 2 {
		p := w.lay(reader, fmt.Sprintf("reader-%d", i), w.accounts.token)
		p.mustInit()
		pods = append(pods, p.start(reader.spec.Containers[0]))
	}
	show := func(state string, n int) {
		t.Helper()
		eventually(t, "instances of reader", func() (string, bool) {
			out, err := w.try("kubectl -n sealmesh exec operator -- sealmesh agent show reader --json")
			return fmt.Sprint(out, err), err == nil && strings.Count(out, `"state": "`+state+`"`) == n
		})
	}
	show("online", 2)
	if out := w.do("A call"); !strings.Contains(out, "dear asker, app.log ends well") {
		t.Errorf("got %s", out)
	}
	pods[0].stop()
	show("left", 1)
}

// gone looks for what is left in the cluster.
func (w *world) gone() {
	w.t.Helper()
	err := filepath.WalkDir(w.cluster, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "log" {
			w.t.Errorf("%s is left", path)
		}
		return err
	})
	if err != nil {
		w.t.Error(err)
	}
}
