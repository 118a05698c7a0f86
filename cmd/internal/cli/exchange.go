package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/urfave/cli/v2"
)

// maxInput bounds what is read from stdin, in bytes; the daemon's own default
// limit on a body is the same.
const maxInput = 64 << 10

func (p *program) exchange() *cli.Command {
	return p.command(command{
		name: "exchange", usage: "hand over a sessionTokenObject from standard input",
		text: "Prints the publicToken; the accessToken stays with the daemon. Repeating it is harmless:\n" +
			"it is answered from the store.",
		example: "tokenvault exchange --client-user-id alice < session-token-object.json",
		flags: []cli.Flag{socketFlag(),
			&cli.StringFlag{Name: "client-user-id", Usage: "refuse an answer that is not about the user `ID`, as the app's own login knows them"}},
		prints: true,
		run: func(c *cli.Context) error {
			object, err := readSessionToken(p.Stdin)
			if err != nil {
				return err
			}
			object.Expected = user.ClientUserID(c.String("client-user-id"))
			return p.asClient(c, func(cl *client.Client) error {
				tokens, err := cl.Exchange(c.Context, object)
				if err != nil {
					return fmt.Errorf("exchange the session token: %w", err)
				}
				return p.answer(c, tokens, func(w io.Writer) { printTokens(w, tokens) })
			})
		},
	})
}

func printTokens(w io.Writer, t api.Tokens) {
	table(w, []string{"humanId", t.HumanID}, []string{"clientUserId", t.ClientUserID},
		[]string{"clientId", t.ClientID}, []string{"publicToken", t.PublicToken})
}

// readSessionToken reads what the browser got: {humanId, clientId, sessionToken}.
// Further fields are left out, as the daemon does. Errors show none of it.
func readSessionToken(r io.Reader) (client.SessionTokenObject, error) {
	var object struct {
		HumanID      string `json:"humanId"`
		ClientID     string `json:"clientId"`
		SessionToken string `json:"sessionToken"`
	}
	body, err := readAll(r)
	if err != nil {
		return client.SessionTokenObject{}, err
	}
	defer clear(body)
	if json.Unmarshal(body, &object) != nil || object.HumanID == "" || object.SessionToken == "" {
		return client.SessionTokenObject{}, errors.New("standard input is not a sessionTokenObject: it wants {humanId, clientId, sessionToken} as JSON")
	}
	return client.SessionTokenObject{
		HumanID: user.HumanID(object.HumanID), ClientID: user.ClientID(object.ClientID),
		SessionToken: secret.FromString(object.SessionToken),
	}, nil
}

func readAll(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("read standard input: %w", err)
	}
	if len(body) > maxInput {
		return nil, fmt.Errorf("standard input is larger than %d bytes", maxInput)
	}
	return body, nil
}
