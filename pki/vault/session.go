package vault

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/approle"

	"github.com/sealmesh/sealmesh/pki"
)

const (
	lookupPath = "auth/token/lookup-self"
	renewPath  = "auth/token/renew-self"
)

// session is the client with the token that it holds.
type session struct {
	issuer *Issuer
	client *api.Client

	mu        sync.Mutex // held while logging in: many that need a token wait for one login
	token     string
	file      fs.FileInfo   // the token file as it was read
	renewable bool          // what Vault said about the token
	life      time.Duration // how long it lives from being made or renewed; 0: no end is known
	ends      time.Time
}

// ready has the client hold a token that should be good.
func (s *session) ready(ctx context.Context) *Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.issuer.cfg.AppRole != nil {
		if s.token != "" && (s.life == 0 || s.issuer.cfg.Clock().Before(s.ends)) {
			return nil
		}
		return s.login(ctx)
	}
	return s.read(ctx)
}

// read takes the token file if it is new.
func (s *session) read(ctx context.Context) *Error {
	path := s.issuer.cfg.TokenFile
	info, err := os.Stat(path)
	if err == nil && s.token != "" && os.SameFile(info, s.file) && info.ModTime().Equal(s.file.ModTime()) && info.Size() == s.file.Size() && info.Mode() == s.file.Mode() {
		return nil
	}
	text, failed := s.secret(path)
	if failed != nil {
		return failed
	}
	defer clear(text)
	token := string(bytes.TrimSpace(text))
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return problem(NoCredential, "write nothing but the token to it", "%q holds no token", path)
	}
	s.hold(token)
	s.file = info
	return s.look(ctx)
}

// look asks how long the token lives. A policy that forbids even that is no
// reason not to try; the token is then kept as it is.
func (s *session) look(ctx context.Context) *Error {
	secret, err := s.client.Logical().ReadWithContext(ctx, lookupPath)
	if err != nil {
		e := s.issuer.explain("looking up the token", lookupPath, err)
		if e.Kind == Forbidden {
			return nil
		}
		if e.Kind != TokenEnded {
			s.hold("") // to be looked up the next time
		}
		return e
	}
	s.learn(secret)
	return nil
}

// login gets a token for the AppRole.
func (s *session) login(ctx context.Context) *Error {
	a := s.issuer.cfg.AppRole
	role, failed := s.secret(a.RoleIDFile)
	if failed != nil {
		return failed
	}
	defer clear(role)
	id, failed := s.secret(a.SecretIDFile)
	if failed != nil {
		return failed
	}
	defer clear(id)
	role, id = bytes.TrimSpace(role), bytes.TrimSpace(id)
	path := "auth/" + a.Mount + "/login"
	method, err := approle.NewAppRoleAuth(string(role), &approle.SecretID{FromString: string(id)}, approle.WithMountPath(a.Mount))
	if err != nil { // one of the two is empty
		return problem(NoCredential, "write the role ID and the secret ID to them", "%q or %q is empty", a.RoleIDFile, a.SecretIDFile)
	}
	s.hold("")
	secret, err := method.Login(ctx, s.client)
	if r := (*api.ResponseError)(nil); errors.As(err, &r) && (r.StatusCode == http.StatusBadRequest || r.StatusCode == http.StatusForbidden) {
		return problem(TokenEnded, "write a new secret ID to "+a.SecretIDFile+": vault write -f -field=secret_id auth/"+a.Mount+"/role/NAME/secret-id",
			"logging in: %s refuses the AppRole: %s", path, clean(strings.Join(r.Errors, "; ")))
	}
	if err != nil {
		return s.issuer.explain("logging in", path, err)
	}
	if secret == nil || secret.Auth == nil || secret.Auth.ClientToken == "" {
		return problem(Unreachable, standby, "logging in: %s gave no token", s.issuer.cfg.Address)
	}
	s.hold(secret.Auth.ClientToken)
	s.learn(secret)
	return nil
}

// standby is the hint for answers without content, which is what a redirect that
// is not followed looks like.
const standby = "name the address of the active server as vault.address, or let its standby servers forward requests"

// secret reads a file of mode 0600.
func (s *session) secret(path string) ([]byte, *Error) {
	text, err := pki.ReadSecret(path)
	if err == nil {
		return text, nil
	}
	hint := "write the token or the secret ID there, mode 0600, as the user of the control plane"
	if m := (*pki.ModeError)(nil); errors.As(err, &m) {
		hint = m.Hint()
	}
	e := problem(NoCredential, hint, "%s", strings.TrimPrefix(err.Error(), "pki: "))
	return nil, e
}

func (s *session) hold(token string) {
	s.token, s.renewable, s.life, s.ends = token, false, 0, time.Time{}
	if token == "" {
		s.client.ClearToken()
		return
	}
	s.client.SetToken(token)
}

// learn takes over what an answer says about the token's life.
func (s *session) learn(secret *api.Secret) {
	if secret == nil {
		return
	}
	life, err := secret.TokenTTL()
	if err != nil || life <= 0 {
		s.life, s.ends, s.renewable = 0, time.Time{}, false // a root token never ends
		return
	}
	renewable, err := secret.TokenIsRenewable()
	s.renewable = renewable && err == nil
	s.life, s.ends = life, s.issuer.cfg.Clock().Add(life)
}

// rejected is called when Vault refused the token that a request was made with.
// It reports whether the request is to be made once more with another one.
func (s *session) rejected(ctx context.Context, token string) (again bool, dead *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token != token {
		return true, nil // somebody else replaced it meanwhile
	}
	_, err := s.client.Logical().ReadWithContext(ctx, lookupPath)
	r := (*api.ResponseError)(nil)
	if err == nil || !errors.As(err, &r) || r.StatusCode != http.StatusForbidden {
		return false, nil // it lives, or nobody can say
	}
	if s.issuer.cfg.AppRole != nil {
		dead = s.login(ctx)
		return dead == nil, dead
	}
	if !strings.Contains(strings.Join(r.Errors, " "), invalidToken) {
		return false, nil // it may not even look at itself
	}
	// The file may hold another one by now; where it does not, reading it again
	// would look that token up at every request.
	if e := s.read(ctx); e != nil {
		return false, e
	}
	if s.token != token {
		return true, nil
	}
	return false, s.issuer.tokenEnded("using the token of " + s.issuer.cfg.TokenFile)
}

func (s *session) current() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token
}

// tend renews the token from half of its life on and returns when to look again.
// A token that will end and cannot be renewed any more is reported when a fifth
// of its life is left.
func (s *session) tend(ctx context.Context) (time.Duration, *Error) {
	if e := s.ready(ctx); e != nil {
		return tendLeast, e
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life == 0 {
		return tendMost, nil
	}
	next := min(max(s.life/8, tendLeast), tendMost)
	left := s.ends.Sub(s.issuer.cfg.Clock())
	if left > s.life/2 {
		return next, nil
	}
	life := s.life
	if s.renewable {
		secret, err := s.client.Logical().WriteWithContext(ctx, renewPath, map[string]any{})
		if err != nil {
			e := s.issuer.explain("renewing the token", renewPath, err)
			if s.issuer.cfg.AppRole != nil && (e.Kind == TokenEnded || e.Kind == Forbidden) {
				return next, s.login(ctx)
			}
			return next, e
		}
		s.learn(secret)
		// What is renewed up to its last end lives ever shorter, and is judged by
		// what it was given in the beginning.
		s.life = max(s.life, life)
		left = s.ends.Sub(s.issuer.cfg.Clock())
	}
	if left > life/5 {
		return next, nil
	}
	if s.issuer.cfg.AppRole != nil {
		return next, s.login(ctx)
	}
	return next, problem(TokenEnded, "write a new token to "+s.issuer.cfg.TokenFile, "the token ends at %s and cannot be renewed any more", s.ends.UTC().Format(time.RFC3339))
}

// How long [Issuer.Run] lets the token alone.
const (
	tendLeast = time.Second
	tendMost  = 30 * time.Second
)
