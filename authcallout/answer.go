package authcallout

import (
	"fmt"
	"time"

	"github.com/nats-io/jwt/v2"

	"github.com/sealmesh/sealmesh/agentid"
)

// sealedAdmission returns the answer that lets the connection in, as the agent,
// with the grant, until expires.
func (s *Service) sealedAdmission(req *request, agent agentid.ID, grant Grant, expires time.Time) ([]byte, error) {
	user := jwt.NewUserClaims(req.UserNkey)
	// The name is what CONNZ, events and the server's log show, and the only
	// handle by which an operator finds the agent there.
	user.Name = agent.String()
	user.Audience = s.cfg.Account
	user.Expires = expires.Unix()
	user.Permissions = grant.Permissions()
	user.AllowedConnectionTypes = jwt.StringList{jwt.ConnectionTypeStandard, jwt.ConnectionTypeWebsocket}
	token, err := user.Encode(req.issuer)
	if err != nil {
		return nil, fmt.Errorf("authcallout: signing a user JWT: %w", err)
	}
	return s.seal(req, token, "")
}

// sealedDenial returns the answer that refuses. nats-server logs its text and
// publishes it as an event, so it is a reference and nothing more.
func (s *Service) sealedDenial(req *request, id string) []byte {
	answer, err := s.seal(req, "", "denied "+id)
	if err != nil {
		s.cfg.Log.Error().Err(err).Str("denial", id).Msg("callout denial could not be sealed")
		return reject
	}
	return answer
}

func (s *Service) seal(req *request, token, refusal string) ([]byte, error) {
	resp := jwt.NewAuthorizationResponseClaims(req.UserNkey)
	resp.Audience = req.Server.ID
	resp.Jwt = token
	resp.Error = refusal
	text, err := resp.Encode(req.issuer)
	if err != nil {
		return nil, fmt.Errorf("authcallout: signing a response: %w", err)
	}
	sealed, err := req.xkey.Seal([]byte(text), req.Server.XKey)
	if err != nil {
		return nil, fmt.Errorf("authcallout: sealing a response: %w", err)
	}
	return sealed, nil
}
