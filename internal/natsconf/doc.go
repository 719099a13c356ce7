// Package natsconf implements the NATS side of a mesh: the text of the
// nats-server configuration, the names that it fixes, and the streams whose
// settings the security of the mesh rests on.
//
// One text serves the embedded server and a stock `nats-server -c`. Its laws:
//
//   - Agents live in the account MESH, everything that the control plane owns
//     lives in CTRL. The server does not permission-check the reply subject of
//     what it answers itself, so inside one account an agent could aim the
//     acknowledgement of its own publish at anybody's record. Only the exports
//     that the text lists cross the border.
//   - Nobody but the two users of the control plane is known to the server.
//     Everybody else is decided by the auth callout, whose answer must always
//     list both what an agent may publish and what it may subscribe: the server
//     takes a missing list for everything, and account defaults do not apply.
//   - Client listeners trust both certificate authorities; the route listener
//     trusts the infra CA alone and asks for a password besides, because a
//     stock nats-server holding an agent's certificate would else join the
//     cluster and own the bus.
//   - No seed and no password stands in the text, so it may be world-readable;
//     the routes' password has a file of its own ([ClusterSecret]).
//
// The package writes texts and opens nothing.
package natsconf
