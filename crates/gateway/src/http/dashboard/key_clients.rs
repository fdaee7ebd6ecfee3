//! Which clients use a key.

use antiphon_operations::KeyClientView;
use maud::{Markup, html};

use super::pieces::time;

pub fn key_clients(clients: &[KeyClientView]) -> Markup {
    html! {
        section .card {
            h2 { "Clients" }
            @if clients.is_empty() { p .muted { "No client that says its name has used this key." } }
            @else {
                table {
                    thead { tr { th scope="col" { "User agent" } th scope="col" { "Last used" } } }
                    tbody {
                        @for client in clients {
                            tr { th .mono scope="row" { (client.name) } td { (time(&client.last_used_at)) } }
                        }
                    }
                }
            }
        }
    }
}
