package api

import "net/http"

// Code is a stable error code. The set is closed.
type Code string

const (
	BadRequest           Code = "bad_request"
	ClientIDRequired     Code = "client_id_required"
	SecretNotAccepted    Code = "secret_not_accepted"
	UnknownCaller        Code = "unknown_caller"
	NotGranted           Code = "not_granted"
	NotFound             Code = "not_found"
	UnknownUser          Code = "unknown_user"
	MethodNotAllowed     Code = "method_not_allowed"
	TooSlow              Code = "too_slow"
	UserMismatch         Code = "user_mismatch"
	AmbiguousUser        Code = "ambiguous_user"
	SessionConflict      Code = "session_conflict"
	Indeterminate        Code = "indeterminate"
	NoAccessToken        Code = "no_access_token"
	Forgotten            Code = "forgotten"
	TooLarge             Code = "too_large"
	UnsupportedMediaType Code = "unsupported_media_type"
	SessionRefused       Code = "session_refused"
	RateLimited          Code = "rate_limited"
	HeadersTooLarge      Code = "headers_too_large"
	Internal             Code = "internal"
	UpstreamInvalid      Code = "upstream_invalid"
	TokenRefused         Code = "token_refused"
	Starting             Code = "starting"
	Draining             Code = "draining"
	VaultUnavailable     Code = "vault_unavailable"
	VaultStale           Code = "vault_stale"
	SecretUnavailable    Code = "secret_unavailable"
	StoreUnavailable     Code = "store_unavailable"
	AuditUnavailable     Code = "audit_unavailable"
	UpstreamUnavailable  Code = "upstream_unavailable"
	ExchangePending      Code = "exchange_pending"
)

// statuses gives each code its one HTTP status (RFC 9110 section 15; 429 and
// 431 are RFC 6585).
var statuses = map[Code]int{
	BadRequest: http.StatusBadRequest, ClientIDRequired: http.StatusBadRequest, SecretNotAccepted: http.StatusBadRequest,
	UnknownCaller: http.StatusForbidden, NotGranted: http.StatusForbidden,
	NotFound: http.StatusNotFound, UnknownUser: http.StatusNotFound,
	MethodNotAllowed: http.StatusMethodNotAllowed,
	TooSlow:          http.StatusRequestTimeout,
	UserMismatch:     http.StatusConflict, AmbiguousUser: http.StatusConflict, SessionConflict: http.StatusConflict,
	Indeterminate: http.StatusConflict, NoAccessToken: http.StatusConflict,
	Forgotten: http.StatusGone, TooLarge: http.StatusRequestEntityTooLarge,
	UnsupportedMediaType: http.StatusUnsupportedMediaType, SessionRefused: http.StatusUnprocessableEntity,
	RateLimited: http.StatusTooManyRequests, HeadersTooLarge: http.StatusRequestHeaderFieldsTooLarge,
	Internal: http.StatusInternalServerError, UpstreamInvalid: http.StatusBadGateway, TokenRefused: http.StatusBadGateway,
	Starting: http.StatusServiceUnavailable, Draining: http.StatusServiceUnavailable,
	VaultUnavailable: http.StatusServiceUnavailable, VaultStale: http.StatusServiceUnavailable,
	SecretUnavailable: http.StatusServiceUnavailable, StoreUnavailable: http.StatusServiceUnavailable,
	AuditUnavailable: http.StatusServiceUnavailable, UpstreamUnavailable: http.StatusServiceUnavailable,
	ExchangePending: http.StatusGatewayTimeout,
}

// Status is the code's HTTP status; 500 for a code that is not in the list.
func (c Code) Status() int {
	if s, ok := statuses[c]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// Codes returns the closed list with the status of each.
func Codes() map[Code]int {
	m := make(map[Code]int, len(statuses))
	for c, s := range statuses {
		m[c] = s
	}
	return m
}
