package vault

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/pki"
)

// Defaults of [Config].
const (
	DefaultMount        = "pki"
	DefaultAppRoleMount = "approle"
	// DefaultTimeout bounds one request to Vault.
	DefaultTimeout = 10 * time.Second
)

// Config says which Vault signs, as what, and what is believed of it. Exactly one
// of TokenFile and AppRole is set.
type Config struct {
	Address   string // https://host:port
	Namespace string // of Vault Enterprise; none where empty
	Mount     string // of the PKI secrets engine; DefaultMount where empty
	Role      string // of that engine
	CAFile    string // PEM of the CAs that Vault's own server certificate chains to

	// TokenFile holds a Vault token. It is read again when it changes, and the
	// token is renewed as long as it can be.
	TokenFile string
	AppRole   *AppRole

	TrustDomain string
	// Roots is the PEM bundle of the pinned roots. Where it is empty nothing can
	// be signed, only [Issuer.FetchRoots] and [Issuer.CheckRole] work.
	Roots []byte

	Clock   func() time.Time
	Timeout time.Duration // DefaultTimeout where zero
}

// AppRole is a login by two files, both of mode 0600, which are read at every
// login.
type AppRole struct {
	Mount        string // of the auth method; DefaultAppRoleMount where empty
	RoleIDFile   string
	SecretIDFile string
}

var (
	// mountPath is as strict as no Vault is, because it becomes part of a URL and
	// of commands that are shown.
	mountPath = regexp.MustCompile(`^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$`)
	roleName  = regexp.MustCompile(`^[A-Za-z0-9_-]([A-Za-z0-9_.-]{0,127})$`)
)

// Check names the first setting that cannot be used; it reads no file.
func (c Config) Check() error {
	if err := checkAddress(c.Address); err != nil {
		return err
	}
	c = c.filled()
	switch {
	case !plainPath(c.Mount):
		return fmt.Errorf("mount: %.80q is not the path of a secrets engine", c.Mount)
	case !roleName.MatchString(c.Role):
		return fmt.Errorf("role: %.80q is not the name of a role", c.Role)
	case c.Namespace != "" && !plainPath(strings.TrimSuffix(c.Namespace, "/")):
		return fmt.Errorf("namespace: %.80q is not a namespace", c.Namespace)
	case c.CAFile == "":
		return errors.New("ca_file: name the file of the CA that Vault's own certificate chains to")
	case (c.TokenFile == "") == (c.AppRole == nil):
		return errors.New("either token_file or approle is required, and not both")
	}
	if a := c.AppRole; a != nil {
		switch {
		case !plainPath(a.Mount):
			return fmt.Errorf("approle.mount: %.80q is not the path of an auth method", a.Mount)
		case a.RoleIDFile == "" || a.SecretIDFile == "":
			return errors.New("approle: role_id_file and secret_id_file are required")
		}
	}
	return nil
}

func plainPath(s string) bool {
	return len(s) <= 128 && mountPath.MatchString(s) && !strings.Contains("/"+s+"/", "/../") && !strings.Contains("/"+s+"/", "/./")
}

// checkAddress takes https://host[:port]: a token must not cross a network that
// can be read, and Vault serves TLS in its development mode too.
func checkAddress(s string) error {
	u, err := url.Parse(s)
	if err != nil {
		return fmt.Errorf("address: %.80q is not a URL", s)
	}
	if u.User != nil {
		return errors.New("address: a URL must not hold a user or a password")
	}
	if u.Scheme != "https" || u.Hostname() == "" || u.Opaque != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Path != "" && u.Path != "/" {
		return fmt.Errorf("address: %.80q is not https://host:port", s)
	}
	return nil
}

func (c Config) filled() Config {
	c.Address = strings.TrimSuffix(c.Address, "/")
	if c.Mount == "" {
		c.Mount = DefaultMount
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.AppRole != nil {
		a := *c.AppRole
		if a.Mount == "" {
			a.Mount = DefaultAppRoleMount
		}
		c.AppRole = &a
	}
	return c
}

// New makes an issuer. It reads the files that are public and sends nothing, so
// that a control plane starts while Vault is away.
func New(c Config) (*Issuer, error) {
	if err := c.Check(); err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	if c.Clock == nil {
		return nil, errors.New("vault: no clock")
	}
	if _, err := agentid.ParseTrustDomain(c.TrustDomain); err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	i := &Issuer{cfg: c.filled(), roots: x509.NewCertPool(), news: make(chan error, 1)}
	if len(c.Roots) > 0 {
		var err error
		if i.roots, err = pki.ParsePool(c.Roots); err != nil {
			return nil, fmt.Errorf("vault: pinned roots: %w", err)
		}
		certs, err := pki.ParseCertificates(c.Roots)
		if err != nil {
			return nil, fmt.Errorf("vault: pinned roots: %w", err)
		}
		i.pinned = certs
	}
	client, err := i.cfg.client()
	if err != nil {
		return nil, err
	}
	i.auth = &session{issuer: i, client: client}
	return i, nil
}

// client makes the official client and takes everything from it that the
// environment of the process could have put there: a proxy, another address, a
// verification that is switched off, a token, headers.
func (c Config) client() (*api.Client, error) {
	text, err := readPublic(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("vault: ca_file: %w", err)
	}
	pool, err := pki.ParsePool(text)
	if err != nil {
		return nil, fmt.Errorf("vault: ca_file %q: %w", c.CAFile, err)
	}
	transport := &http.Transport{
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Time: c.Clock},
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          4,
		IdleConnTimeout:       30 * time.Second,
		TLSHandshakeTimeout:   c.Timeout,
		ResponseHeaderTimeout: c.Timeout,
	}
	client, err := api.NewClient(&api.Config{
		Address: c.Address, Timeout: c.Timeout, DisableRedirects: true, MaxRetries: 0,
		HttpClient: &http.Client{
			Transport:     bounded{transport},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	})
	if err != nil {
		// It may quote a variable of the environment.
		return nil, errors.New("vault: the client cannot be made; remove the VAULT_ variables from the environment")
	}
	client.ClearToken()
	client.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})
	client.SetWrappingLookupFunc(func(string, string) string { return "" })
	if c.Namespace != "" {
		client.SetNamespace(c.Namespace)
	}
	return client, nil
}

// answerLimit is the longest answer of Vault in bytes; the client reads all of it.
const answerLimit = 1 << 20

// bounded cuts answers off.
type bounded struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.Transport.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, answerLimit), resp.Body}
	}
	return resp, err
}

func readPublic(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, limits.CertificateText+1))
	if err == nil && len(b) > limits.CertificateText {
		err = fmt.Errorf("%q is longer than %d bytes", path, limits.CertificateText)
	}
	return b, err
}
